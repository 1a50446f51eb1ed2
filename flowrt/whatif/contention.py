"""Contention model: how the latency of calls depends on their concurrency, fitted to a recording.

By the Universal Scalability Law, a call's latency at concurrency N is `a · (1 + σ (N - 1) + κ N (N - 1))`: σ is the
serial share, κ the cost of coherency. A batch that ran at one concurrency throughout shows neither.
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

_MIN_LEVELS: Final = 3
_MIN_ATTEMPTS: Final = 30  # at each level
_MIN_RATIO: Final = 2.0  # of the highest level to the lowest
_MIN_RISE: Final = 0.05  # of the latency over that range: less is no contention
_MIN_EXPLAINED: Final = 0.7  # share of the variance between levels that the law explains
_MAX_LEVELS: Final = 12


@dataclass(frozen=True, slots=True)
class Contention:
    """Coefficients of the law, or why there are none.

    Attributes:
        known: `fitted`, `independent` (the recording shows that latency does not depend on concurrency) or `unknown`.
        low: Lowest concurrency with enough recorded attempts.
        high: Highest concurrency with enough recorded attempts.
        sigma: Serial share.
        kappa: Cost of coherency.
    """

    known: str
    low: int
    high: int
    sigma: float = 0.0
    kappa: float = 0.0

    def factor(self, before: int, now: int) -> float:
        """Ratio of a call's latency at another concurrency to the recorded one.

        Args:
            before: Concurrency at which the call was recorded; 0 if unknown.
            now: Concurrency of the replay.
        """
        if self.known != "fitted" or not before:
            return 1.0
        return self._latency(now) / self._latency(before)

    def _latency(self, n: int) -> float:
        return 1.0 + self.sigma * (n - 1) + self.kappa * n * (n - 1)

    def note(self) -> str:
        """One sentence for the notes of a forecast."""
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
    """Fit the law to the successful attempts.

    Args:
        attempts: Attempts of the batch.
    """
    np = require_numpy("a forecast")
    successful = attempts.ran & (attempts.outcome == OUTCOMES.index("ok"))
    ran = attempts.ran
    starts, ends = attempts.start[ran], attempts.end[ran]
    begin, end = attempts.start[successful], attempts.end[successful]
    if not len(begin):
        return Contention("unknown", 1, 1)
    level = _mean_inflight(starts, ends, begin, end)
    service_s = (end - begin) / 1e9
    levels, means, counts = _levels(level, service_s)
    low, high = max(1, round(float(levels.min()))), max(1, round(float(levels.max())))
    if len(levels) < _MIN_LEVELS or levels.max() < _MIN_RATIO * levels.min():
        return Contention("unknown", low, high)
    law = fit_usl(list(zip(levels.tolist(), (levels / means).tolist(), strict=True)))
    if law is None:
        return Contention("unknown", low, high)
    fitted = levels / np.array([law.throughput(level) for level in levels.tolist()])
    rise = fitted[levels.argmax()] / fitted[levels.argmin()] - 1
    mean = np.average(means, weights=counts)
    scatter = np.average((means - mean) ** 2, weights=counts)
    explained = 1 - np.average((means - fitted) ** 2, weights=counts) / scatter if scatter > 0 else 0.0
    if rise < _MIN_RISE or explained < _MIN_EXPLAINED:
        spread = (means.max() - means.min()) / mean
        return Contention("independent" if spread < 3 * _MIN_RISE or rise < _MIN_RISE else "unknown", low, high)
    return Contention("fitted", low, high, law.contention, law.coherency)


def _mean_inflight(starts: Ints, ends: Ints, begin: Ints, end: Ints) -> Any:
    """Return the concurrency of each attempt: how many attempts ran at once, on average over its time.

    The number of attempts at its end would mislead: of attempts that start and end together, only half would count.
    """
    np = require_numpy("a forecast")
    at = np.concatenate((starts, ends))
    order = np.argsort(at, kind="stable")  # at one time, starts come before ends
    at = at[order]
    running = np.cumsum(np.concatenate((np.ones(len(starts)), -np.ones(len(ends))))[order])
    elapsed = np.concatenate(([0.0], np.cumsum(running[:-1] * np.diff(at))))  # of all attempts together, in ns
    spent = np.interp(end, at, elapsed) - np.interp(begin, at, elapsed)
    return np.maximum(spent / np.maximum(end - begin, 1), 1.0)


def _levels(level: Any, service_s: Any) -> tuple[Any, Any, Any]:
    """Mean service times by level of concurrency, in seconds, with the number of attempts at each level."""
    np = require_numpy("a forecast")
    edges = np.geomspace(level.min(), level.max() * 1.001, _MAX_LEVELS + 1)
    place = np.clip(np.searchsorted(edges, level, side="right") - 1, 0, _MAX_LEVELS - 1)
    counts = np.bincount(place, minlength=_MAX_LEVELS)
    enough = counts >= max(_MIN_ATTEMPTS, len(level) // 200)
    if not enough.any():
        return level.mean(keepdims=True), service_s.mean(keepdims=True), np.array([len(level)])
    levels = np.bincount(place, level, _MAX_LEVELS)[enough] / counts[enough]
    means = np.bincount(place, service_s, _MAX_LEVELS)[enough] / counts[enough]
    return levels, means, counts[enough]
