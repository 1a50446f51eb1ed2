"""How the service behind slows down with more calls at once: the Universal Scalability Law, where the data shows it.

The law says that a call's latency at concurrency N is `a · (1 + σ (N - 1) + κ N (N - 1))`: σ for what is done one after
the other, κ for what the calls cost each other. A batch that ran at one concurrency all the time says nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flowrt.loadtest.usl import fit_usl
from flowrt.recording.columns import OUTCOMES
from flowrt.reporting.attempts import Attempts, require_numpy

if TYPE_CHECKING:
    from flowrt.reporting.attempts import Ints

__all__ = ["Contention", "fit_contention"]

_LEAST_LEVELS: Final = 3
_LEAST_AT_LEVEL: Final = 30
_LEAST_RATIO: Final = 2.0  # between the highest level and the lowest
_LEAST_RISE: Final = 0.05  # of the latency over that range: less is no contention
_LEAST_FIT: Final = 0.7  # how much of the levels' differences the law explains
_MOST_LEVELS: Final = 12


@dataclass(frozen=True, slots=True)
class Contention:
    """The law's coefficients, or why there are none.

    Attributes:
        known: `fitted`, `independent` (the recording shows that latency does not depend on concurrency) or `unknown`.
        low: The lowest concurrency that the recording has enough attempts at.
        high: The highest.
        sigma: What is done one after the other.
        kappa: What the calls cost each other.
    """

    known: str
    low: int
    high: int
    sigma: float = 0.0
    kappa: float = 0.0

    def factor(self, before: int, now: int) -> float:
        """How much longer a call takes at another concurrency.

        Args:
            before: The concurrency at which it was recorded; 0 where that is not known.
            now: The concurrency now.
        """
        if self.known != "fitted" or not before:
            return 1.0
        return self._latency(now) / self._latency(before)

    def _latency(self, n: int) -> float:
        return 1.0 + self.sigma * (n - 1) + self.kappa * n * (n - 1)

    def says(self) -> str:
        """One sentence for whoever reads a forecast."""
        if self.known == "fitted":
            return (
                f"latency depends on load: a Universal Scalability Law is used, fitted between {self.low} and "
                f"{self.high} calls at once (sigma {self.sigma:.4g}, kappa {self.kappa:.3g}); beyond {self.high} it "
                "extrapolates"
            )
        if self.known == "independent":
            return f"latency did not depend on load between {self.low} and {self.high} calls at once in the recording"
        ran = f"{self.low} to {self.high}" if self.low < self.high else f"{self.low}"
        return (
            f"the recording ran at {ran} calls at once, too uniform to show contention: the forecast assumes latency "
            "independent of load"
        )


def fit_contention(attempts: Attempts) -> Contention:
    """Fit the law to the attempts that went well.

    Args:
        attempts: The batch's attempts.
    """
    np = require_numpy("a forecast")
    good = attempts.ran & (attempts.outcome == OUTCOMES.index("ok"))
    ran = attempts.ran
    starts, ends = np.sort(attempts.start[ran]), np.sort(attempts.end[ran])
    begin, end = attempts.start[good], attempts.end[good]
    if not len(begin):
        return Contention("unknown", 1, 1)
    level = _mean_inflight(starts, ends, begin, end)
    took = (end - begin) / 1e9
    levels, means, counts = _levels(level, took)
    low, high = max(1, round(float(levels.min()))), max(1, round(float(levels.max())))
    if len(levels) < _LEAST_LEVELS or levels.max() < _LEAST_RATIO * levels.min():
        return Contention("unknown", low, high)
    law = fit_usl(list(zip(levels.tolist(), (levels / means).tolist(), strict=True)))
    if law is None:
        return Contention("unknown", low, high)
    fitted = levels / np.array([law.throughput(level) for level in levels.tolist()])
    rise = fitted[levels.argmax()] / fitted[levels.argmin()] - 1
    mean = np.average(means, weights=counts)
    scatter = np.average((means - mean) ** 2, weights=counts)
    explained = 1 - np.average((means - fitted) ** 2, weights=counts) / scatter if scatter > 0 else 0.0
    if rise < _LEAST_RISE or explained < _LEAST_FIT:
        spread = (means.max() - means.min()) / mean
        return Contention("independent" if spread < 3 * _LEAST_RISE or rise < _LEAST_RISE else "unknown", low, high)
    return Contention("fitted", low, high, law.contention, law.coherency)


def _mean_inflight(starts: Ints, ends: Ints, begin: Ints, end: Ints) -> Any:
    """How many attempts ran, on average, when each began and when it ended."""
    np = require_numpy("a forecast")

    def running(at: Ints, side: str) -> Any:
        return np.searchsorted(starts, at, side=side) - np.searchsorted(ends, at, side=side)

    return np.maximum((running(begin, "right") + running(end, "left")) / 2, 1.0)


def _levels(level: Any, took: Any) -> tuple[Any, Any, Any]:
    """Mean latencies at some levels of concurrency, each of enough attempts."""
    np = require_numpy("a forecast")
    edges = np.geomspace(level.min(), level.max() * 1.001, _MOST_LEVELS + 1)
    place = np.clip(np.searchsorted(edges, level, side="right") - 1, 0, _MOST_LEVELS - 1)
    counts = np.bincount(place, minlength=_MOST_LEVELS)
    enough = counts >= max(_LEAST_AT_LEVEL, len(level) // 200)
    if not enough.any():
        return level.mean(keepdims=True), took.mean(keepdims=True), np.array([len(level)])
    levels = np.bincount(place, level, _MOST_LEVELS)[enough] / counts[enough]
    means = np.bincount(place, took, _MOST_LEVELS)[enough] / counts[enough]
    return levels, means, counts[enough]
