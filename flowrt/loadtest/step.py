"""What one setting came to: counts, throughput in slices of the time, and every latency."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any, Final, Literal

from flowrt.errors import MissingExtraError

__all__ = ["OUTCOMES", "SLICES", "Interval", "Latencies", "Outcome", "Step"]

Outcome = Literal["ok", "failing", "slow", "behind", "stalled", "cut"]
OUTCOMES: Final[dict[Outcome, str]] = {
    "ok": "",
    "failing": "stopped: too many items failed",
    "slow": "stopped: items took far longer than the budget",
    "behind": "stopped: items came faster than they ended",
    "stalled": "stopped: no item ended",
    "cut": "stopped: the time or the number of items was used up",
}
SLICES: Final = 5  # of a pass, whose throughputs tell the noise within it

_HIGHEST_US: Final = 24 * 3_600 * 1_000_000
_T: Final = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # Student's, 95 %, by degrees of freedom


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and what it would be in 95 of 100 repetitions.

    Attributes:
        value: The figure.
        low: The lower bound.
        high: The upper bound.
    """

    value: float
    low: float
    high: float

    def beyond(self, other: Interval) -> bool:
        """Whether it differs from another by more than both their noise."""
        return self.low > other.high or self.high < other.low


class Latencies:
    """Latencies in an HdrHistogram: three digits of each, from a microsecond to a day.

    Args:
        encoded: What `encode` gave.

    Raises:
        MissingExtraError: hdrhistogram is not installed.
    """

    def __init__(self, encoded: str | None = None) -> None:
        try:
            from hdrh.histogram import HdrHistogram  # noqa: PLC0415  # an extra
        except ImportError:
            raise MissingExtraError("flowrt bench", "hdrhistogram", "bench") from None
        self._of: Any = HdrHistogram(1, _HIGHEST_US, 3) if encoded is None else HdrHistogram.decode(encoded)

    def add(self, seconds: float) -> None:
        """Count one."""
        self._of.record_value(min(_HIGHEST_US, max(1, round(seconds * 1e6))))

    def join(self, other: Latencies) -> None:
        """Count those of another."""
        self._of.add(other._of)  # of this class

    def encode(self) -> str:
        """All of it as text, which `Latencies(text)` reads."""
        text: bytes = self._of.encode()
        return text.decode("ascii")

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._of.get_total_count())

    def at(self, percentile: float) -> float:
        """The latency within which that many of a hundred are, in seconds; 0 where there are none."""
        return float(self._of.get_value_at_percentile(percentile)) / 1e6 if self.count else 0.0

    def interval(self, percentile: float) -> Interval:
        """The same with its noise, by the ranks between which it lies."""
        share, count = percentile / 100, self.count
        half = 1.96 * math.sqrt(share * (1 - share) / count) * 100 if count else 0.0
        return Interval(
            self.at(percentile), self.at(max(0.0, percentile - half)), self.at(min(100.0, percentile + half))
        )


@dataclass(slots=True)
class Step:
    """One setting, over all passes.

    Attributes:
        setting: The concurrency, or the arrival rate in items a second.
        ok: How many items succeeded, and failed, of those that count.
        failed: The same of failures.
        errors: The failures by type.
        slices: Items a second in each slice of each pass.
        means: Items a second of each pass.
        latencies: Of the successes; in an open loop from when the item was to arrive.
        by_pass: The latencies of each pass.
        outcome: How it ended.
    """

    setting: float
    ok: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    slices: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    latencies: Latencies = field(default_factory=Latencies)
    by_pass: list[Latencies] = field(default_factory=list)
    outcome: Outcome = "ok"

    def join(self, other: Step) -> None:
        """Count another pass of the same setting."""
        self.ok += other.ok
        self.failed += other.failed
        self.errors += other.errors
        self.slices += other.slices
        self.means += other.means
        self.latencies.join(other.latencies)
        self.by_pass += other.by_pass
        if other.outcome != "ok":
            self.outcome = other.outcome

    @property
    def failure_rate(self) -> float:
        """Share of failures, 0 to 1."""
        return self.failed / (self.ok + self.failed) if self.ok + self.failed else 0.0

    @property
    def throughput(self) -> Interval:
        """Items that succeeded, a second, with its noise: that of the slices or of the passes, whichever is more."""
        if not self.slices:
            return Interval(0.0, 0.0, 0.0)
        middle, half = mean(self.means), _between(self.means)
        if len(self.slices) > 1:
            degrees = len(self.slices) - 1
            times = _T[degrees - 1] if degrees <= len(_T) else 2.0
            half = max(half, times * stdev(self.slices) / math.sqrt(len(self.slices)))
        return Interval(middle, max(0.0, middle - half), middle + half)

    def latency(self, percentile: float) -> Interval:
        """A percentile of the latencies, in seconds, with its noise: that of the ranks or of the passes."""
        whole = self.latencies.interval(percentile)
        half = _between([each.at(percentile) for each in self.by_pass if each.count])
        low, high = min(whole.low, whole.value - half), max(whole.high, whole.value + half)
        return Interval(whole.value, max(0.0, low), high)


def _between(passes: Sequence[float]) -> float:
    """How far off a figure may be for what the passes differ by; two of them show but a part of it."""
    return max(passes) - min(passes) if passes else 0.0
