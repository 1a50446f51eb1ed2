"""What one setting came to: counts, throughput in slices of the time, and every latency."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import stdev
from typing import Any, Final, Literal

from flowrt._util.intervals import students_t
from flowrt.errors import MissingExtraError

__all__ = ["OUTCOMES", "SLICES", "UNFINISHED", "Drift", "Interval", "Latencies", "Outcome", "Step", "share_interval"]

Outcome = Literal["ok", "failing", "slow", "behind", "stalled", "short", "cut"]
OUTCOMES: Final[dict[Outcome, str]] = {
    "ok": "",
    "failing": "stopped: too many items failed",
    "slow": "stopped: items took far longer than the budget",
    "behind": "stopped: items came faster than they ended",
    "stalled": "stopped: nothing ended any more",
    "short": "no item ended within the step",
    "cut": "stopped: the time or the number of items was used up",
}
SLICES: Final = 5
"""Parts of a pass, whose throughputs tell the noise within it."""
UNFINISHED: Final = "Unfinished"
"""What stands for the error of an item that had not ended long after its step."""

_HIGHEST_US: Final = 24 * 3_600 * 1_000_000
_DRIFTING: Final = 0.02  # seconds that latencies grow by in a second where items come faster than they end
_SURE: Final = 3.0  # standard errors
_LEAST_FOR_DRIFT: Final = 20


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and what it would be in 95 of 100 repetitions.

    Attributes:
        value: The figure.
        low: The lower bound.
        high: The upper bound, infinite where nothing is known of the noise.
    """

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether anything is known of the noise."""
        return math.isfinite(self.high)

    def beyond(self, other: Interval) -> bool:
        """Whether it differs from another by more than both their noise."""
        return self.low > other.high or self.high < other.low

    def as_json(self) -> dict[str, float | None]:
        """The three of them; `high` is null where it is infinite, which JSON does not have."""
        return {"value": self.value, "low": self.low, "high": self.high if self.known else None}

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Interval:
        """What `as_json` gave.

        Raises:
            KeyError: A figure is missing.
            TypeError: One is no number.
        """
        high = math.inf if told["high"] is None else told["high"]
        return cls(float(told["value"]), float(told["low"]), float(high))


def share_interval(part: int, whole: int) -> Interval:
    """A share with its interval (Wilson's): of nothing it may be any.

    Args:
        part: How many are meant.
        whole: Of how many.
    """
    if not whole:
        return Interval(0.0, 0.0, 1.0)
    share, z = part / whole, 1.96
    middle = (share + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z / (1 + z * z / whole) * (share * (1 - share) / whole + z * z / (4 * whole * whole)) ** 0.5
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


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

    @property
    def most(self) -> float:
        """The longest, in seconds; 0 where there are none."""
        return float(self._of.get_max_value()) / 1e6 if self.count else 0.0

    @property
    def mean(self) -> float:
        """Their mean, in seconds; 0 where there are none."""
        return float(self._of.get_mean_value()) / 1e6 if self.count else 0.0

    def interval(self, percentile: float) -> Interval:
        """The same with its noise, by the ranks between which it lies."""
        share, count = percentile / 100, self.count
        half = 1.96 * math.sqrt(share * (1 - share) / count) * 100 if count else 0.0
        return Interval(
            self.at(percentile), self.at(max(0.0, percentile - half)), self.at(min(100.0, percentile + half))
        )


class Drift:
    """Whether latencies grow as time goes by: where items come faster than they end, each waits longer than the last.

    A straight line is fitted to the latencies over the times at which items were due, by sums that are kept as they
    come (Welford's); several passes have one slope and each its own height.
    """

    __slots__ = ("_at", "_both", "_count", "_latencies", "_latency", "_passes", "_times")

    def __init__(self) -> None:
        self._count, self._passes = 0, 1
        self._at = self._latency = 0.0  # the means
        self._times = self._both = self._latencies = 0.0  # squared distances from them, and their product

    def add(self, at_s: float, latency_s: float) -> None:
        """Count one item.

        Args:
            at_s: When it was due, in seconds from the beginning of the pass.
            latency_s: How long it took from then on, in seconds.
        """
        self._count += 1
        early, quick = at_s - self._at, latency_s - self._latency
        self._at += early / self._count
        self._latency += quick / self._count
        self._times += early * (at_s - self._at)
        self._latencies += quick * (latency_s - self._latency)
        self._both += early * (latency_s - self._latency)

    def join(self, other: Drift) -> None:
        """Count those of another pass."""
        self._count += other._count
        self._passes += other._passes
        self._times += other._times
        self._both += other._both
        self._latencies += other._latencies

    @property
    def slope(self) -> float:
        """Seconds that the latency grows by in a second; where a queue grows that is 1 - capacity / rate."""
        return self._both / self._times if self._times else 0.0

    @property
    def certain(self) -> bool:
        """Whether it grows beyond doubt."""
        free = self._count - self._passes - 1
        slope = self.slope
        if self._count < _LEAST_FOR_DRIFT or slope <= _DRIFTING:
            return False
        left = max(0.0, self._latencies - slope * self._both) / free
        return slope > _SURE * math.sqrt(left / self._times)


@dataclass(slots=True)
class Step:
    """One setting, over all passes.

    Attributes:
        setting: The concurrency, or the arrival rate in items a second.
        ok: How many items succeeded, and failed, of those that count.
        failed: The same of failures.
        errors: The failures by type.
        examples: A message of each.
        unstarted: In an open loop, items that were due and could not even start.
        most: How many items were in flight, at most.
        slowest: How long the slowest item took, in seconds, whether it counts or not.
        slices: Items a second in each slice of each pass that was not stopped.
        means: Items a second of each pass.
        lengths: How long each pass was measured, in seconds.
        latencies: Of the successes; in an open loop from when the item was to arrive.
        failed_latencies: Of the failures.
        by_pass: The latencies of each pass.
        drift: Whether they grow, in an open loop.
        outcome: How it ended.
    """

    setting: float
    ok: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    unstarted: int = 0
    most: int = 0
    slowest: float = 0.0
    slices: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    latencies: Latencies = field(default_factory=Latencies)
    failed_latencies: Latencies = field(default_factory=Latencies)
    by_pass: list[Latencies] = field(default_factory=list)
    drift: Drift = field(default_factory=Drift)
    outcome: Outcome = "ok"

    def join(self, other: Step) -> None:
        """Count another pass of the same setting."""
        self.ok += other.ok
        self.failed += other.failed
        self.errors += other.errors
        self.examples = other.examples | self.examples
        self.unstarted += other.unstarted
        self.most = max(self.most, other.most)
        self.slowest = max(self.slowest, other.slowest)
        self.slices += other.slices
        self.means += other.means
        self.lengths += other.lengths
        self.latencies.join(other.latencies)
        self.failed_latencies.join(other.failed_latencies)
        self.by_pass += other.by_pass
        self.drift.join(other.drift)
        if other.outcome != "ok":
            self.outcome = other.outcome

    @property
    def sound(self) -> bool:
        """Whether it was measured to its end, so that its figures are those of its setting."""
        return self.outcome == "ok" and self.ok > 0

    @property
    def failure_rate(self) -> float:
        """Share of failures, 0 to 1."""
        return self.failed / (self.ok + self.failed) if self.ok + self.failed else 0.0

    @property
    def throughput(self) -> Interval:
        """Items that succeeded, a second, with its noise: that of the slices or of the passes, whichever is more.

        Nothing is known of the noise where every pass was stopped.
        """
        length_s = sum(self.lengths)
        if not length_s:
            return Interval(0.0, 0.0, math.inf)
        middle = sum(rate * each for rate, each in zip(self.means, self.lengths, strict=True)) / length_s
        if len(self.slices) < 2:
            return Interval(middle, 0.0, math.inf)
        degrees = len(self.slices) - 1
        times = students_t(degrees)
        half = max(_between(self.means), times * stdev(self.slices) / math.sqrt(len(self.slices)))
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
