"""Measurement of one setting: counts, throughput by slice of time, and every latency."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import stdev
from typing import Any, Final, Literal

from flowrt._util.intervals import NORMAL_95, students_t
from flowrt.errors import MissingExtraError

__all__ = [
    "OUTCOMES",
    "SLICES",
    "UNFINISHED",
    "Drift",
    "Interval",
    "Latencies",
    "Measurement",
    "Outcome",
    "share_interval",
]

Outcome = Literal["ok", "failing", "slow", "behind", "stalled", "short", "cut"]
OUTCOMES: Final[dict[Outcome, str]] = {
    "ok": "",
    "failing": "stopped: too many items failed",
    "slow": "stopped: items took far longer than the budget",
    "behind": "stopped: items came faster than they ended",
    "stalled": "stopped: no item ended any more",
    "short": "no item ended within the step",
    "cut": "stopped: the time or the number of items was used up",
}
SLICES: Final = 5
"""Slices of a pass; their throughputs show the noise within it."""
UNFINISHED: Final = "Unfinished"
"""Error type of an item that was still running long after its step."""

_MAX_US: Final = 24 * 3_600 * 1_000_000
_MIN_DRIFT: Final = 0.02  # growth of the latency, in seconds per second, that means a growing queue
_DRIFT_ERRORS: Final = 3.0  # standard errors between the slope and 0
_MIN_FOR_DRIFT: Final = 20


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % confidence interval.

    Attributes:
        value: The figure.
        low: Lower bound.
        high: Upper bound; infinite if the noise is unknown.
    """

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """True if the noise is known."""
        return math.isfinite(self.high)

    def beyond(self, other: Interval) -> bool:
        """True if the two intervals do not overlap."""
        return self.low > other.high or self.high < other.low

    def as_json(self) -> dict[str, float | None]:
        """All three figures; `high` is null if infinite, which JSON cannot hold."""
        return {"value": self.value, "low": self.low, "high": self.high if self.known else None}

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Interval:
        """Read what `as_json` wrote.

        Raises:
            KeyError: A figure is missing.
            TypeError: A figure is no number.
        """
        high = math.inf if data["high"] is None else data["high"]
        return cls(float(data["value"]), float(data["low"]), float(high))


def share_interval(part: int, whole: int) -> Interval:
    """Share of a count with Wilson's interval; 0 to 1 for an empty whole.

    Args:
        part: Items counted.
        whole: All items.
    """
    if not whole:
        return Interval(0.0, 0.0, 1.0)
    share, z = part / whole, NORMAL_95
    middle = (share + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z / (1 + z * z / whole) * (share * (1 - share) / whole + z * z / (4 * whole * whole)) ** 0.5
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


class Latencies:
    """HdrHistogram of latencies: three significant digits, from a microsecond to a day.

    Args:
        encoded: Text written by `encode`.

    Raises:
        MissingExtraError: hdrhistogram is not installed.
    """

    def __init__(self, encoded: str | None = None) -> None:
        try:
            from hdrh.histogram import HdrHistogram  # noqa: PLC0415  # an extra
        except ImportError:
            raise MissingExtraError("flowrt bench", "hdrhistogram", "bench") from None
        self._histogram: Any = HdrHistogram(1, _MAX_US, 3) if encoded is None else HdrHistogram.decode(encoded)

    def add(self, seconds: float) -> None:
        """Count one latency."""
        self._histogram.record_value(min(_MAX_US, max(1, round(seconds * 1e6))))

    def merge(self, other: Latencies) -> None:
        """Count the latencies of another histogram too."""
        self._histogram.add(other._histogram)

    def encode(self) -> str:
        """The whole histogram as text, which `Latencies(text)` reads."""
        text: bytes = self._histogram.encode()
        return text.decode("ascii")

    @property
    def count(self) -> int:
        """Number of latencies."""
        return int(self._histogram.get_total_count())

    def at(self, percentile: float) -> float:
        """A percentile, in seconds; 0 without latencies."""
        return float(self._histogram.get_value_at_percentile(percentile)) / 1e6 if self.count else 0.0

    @property
    def longest(self) -> float:
        """The longest latency, in seconds; 0 without latencies."""
        return float(self._histogram.get_max_value()) / 1e6 if self.count else 0.0

    @property
    def mean(self) -> float:
        """The mean, in seconds; 0 without latencies."""
        return float(self._histogram.get_mean_value()) / 1e6 if self.count else 0.0

    def interval(self, percentile: float) -> Interval:
        """A percentile in seconds, with the interval that its rank leaves open."""
        share, count = percentile / 100, self.count
        half = NORMAL_95 * math.sqrt(share * (1 - share) / count) * 100 if count else 0.0
        return Interval(
            self.at(percentile), self.at(max(0.0, percentile - half)), self.at(min(100.0, percentile + half))
        )


class Drift:
    """Trend of the latencies over time: a growing queue makes each item wait longer than the one before.

    Least squares line over the times at which items were due, from running sums (Welford). Several passes share one
    slope; each has its own level.
    """

    __slots__ = ("_at", "_both", "_count", "_latencies", "_latency", "_passes", "_times")

    def __init__(self) -> None:
        self._count, self._passes = 0, 1
        self._at = self._latency = 0.0  # means
        self._times = self._both = self._latencies = 0.0  # sums of squared distances from the means, and the product

    def add(self, at_s: float, latency_s: float) -> None:
        """Count one item.

        Args:
            at_s: When the item was due, in seconds from the start of the pass.
            latency_s: Its latency from then on, in seconds.
        """
        self._count += 1
        before_at, before_latency = at_s - self._at, latency_s - self._latency
        self._at += before_at / self._count
        self._latency += before_latency / self._count
        self._times += before_at * (at_s - self._at)
        self._latencies += before_latency * (latency_s - self._latency)
        self._both += before_at * (latency_s - self._latency)

    def merge(self, other: Drift) -> None:
        """Count the items of another pass too."""
        self._count += other._count
        self._passes += other._passes
        self._times += other._times
        self._both += other._both
        self._latencies += other._latencies

    @property
    def slope(self) -> float:
        """Growth of the latency, in seconds per second; 1 - capacity / rate for a growing queue."""
        return self._both / self._times if self._times else 0.0

    @property
    def certain(self) -> bool:
        """True if the latencies grow beyond doubt."""
        degrees = self._count - self._passes - 1
        slope = self.slope
        if self._count < _MIN_FOR_DRIFT or slope <= _MIN_DRIFT:
            return False
        residual = max(0.0, self._latencies - slope * self._both) / degrees
        return slope > _DRIFT_ERRORS * math.sqrt(residual / self._times)


@dataclass(slots=True)
class Measurement:
    """All passes of one setting.

    Attributes:
        setting: Concurrency, or arrival rate in items a second.
        ok: Successes, of the items that count.
        failed: Failures, of the items that count.
        errors: Failures by error type.
        examples: A message of each error type.
        unstarted: Items of an open loop that were due and could not start.
        max_in_flight: Most items in flight.
        slowest: Latency of the slowest item, in seconds, warm-up included.
        slices: Items a second in each slice of each pass that ran to its end.
        pass_rates: Items a second of each pass.
        pass_lengths_s: Measured length of each pass, in seconds.
        cpu_s: CPU time of this process in the passes, in seconds.
        wall_s: Length of the passes with the items that ended after them, in seconds.
        items: Items that ended in the passes, counted or not.
        latencies: Latencies of the successes; in an open loop from when the item was due.
        failed_latencies: Latencies of the failures.
        latencies_by_pass: Latencies of the successes of each pass.
        drift: Trend of the latencies of an open loop.
        outcome: How the measurement ended.
    """

    setting: float
    ok: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    unstarted: int = 0
    max_in_flight: int = 0
    slowest: float = 0.0
    slices: list[float] = field(default_factory=list)
    pass_rates: list[float] = field(default_factory=list)
    pass_lengths_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0
    items: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    failed_latencies: Latencies = field(default_factory=Latencies)
    latencies_by_pass: list[Latencies] = field(default_factory=list)
    drift: Drift = field(default_factory=Drift)
    outcome: Outcome = "ok"

    def merge(self, other: Measurement) -> None:
        """Add another pass of the same setting."""
        self.ok += other.ok
        self.failed += other.failed
        self.errors += other.errors
        self.examples = other.examples | self.examples
        self.unstarted += other.unstarted
        self.max_in_flight = max(self.max_in_flight, other.max_in_flight)
        self.slowest = max(self.slowest, other.slowest)
        self.slices += other.slices
        self.pass_rates += other.pass_rates
        self.pass_lengths_s += other.pass_lengths_s
        self.cpu_s += other.cpu_s
        self.wall_s += other.wall_s
        self.items += other.items
        self.latencies.merge(other.latencies)
        self.failed_latencies.merge(other.failed_latencies)
        self.latencies_by_pass += other.latencies_by_pass
        self.drift.merge(other.drift)
        if other.outcome != "ok":
            self.outcome = other.outcome

    @property
    def complete(self) -> bool:
        """True if every pass ran to its end, so that the figures are those of the setting."""
        return self.outcome == "ok" and self.ok > 0

    @property
    def counted(self) -> int:
        """Successes and failures."""
        return self.ok + self.failed

    @property
    def failure_rate(self) -> float:
        """Share of failures, 0 to 1."""
        return self.failed / self.counted if self.counted else 0.0

    @property
    def failures(self) -> Interval:
        """Share of failures with its interval."""
        return share_interval(self.failed, self.counted)

    @property
    def throughput(self) -> Interval:
        """Successes a second; the interval is the wider of two, from the slices and from the passes.

        The noise is unknown if every pass was stopped.
        """
        length_s = sum(self.pass_lengths_s)
        if not length_s:
            return Interval(0.0, 0.0, math.inf)
        mean = sum(rate * each for rate, each in zip(self.pass_rates, self.pass_lengths_s, strict=True)) / length_s
        if len(self.slices) < 2:
            return Interval(mean, 0.0, math.inf)
        t = students_t(len(self.slices) - 1)
        half = max(_spread(self.pass_rates), t * stdev(self.slices) / math.sqrt(len(self.slices)))
        return Interval(mean, max(0.0, mean - half), mean + half)

    def latency(self, percentile: float) -> Interval:
        """A latency percentile in seconds; the interval is the wider of two, from the ranks and from the passes."""
        whole = self.latencies.interval(percentile)
        half = _spread([each.at(percentile) for each in self.latencies_by_pass if each.count])
        low, high = min(whole.low, whole.value - half), max(whole.high, whole.value + half)
        return Interval(whole.value, max(0.0, low), high)


def _spread(passes: Sequence[float]) -> float:
    """Half-width of an interval from the passes: their full range, as two passes show only a part of the noise."""
    return max(passes) - min(passes) if passes else 0.0
