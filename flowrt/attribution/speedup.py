"""Speedup over one item at a time: the usual claim, and a measurement with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from flowrt._util.cpu_time import CpuTime
from flowrt._util.intervals import students_t
from flowrt.attribution.stalls import DelayTotals

__all__ = [
    "Method",
    "SequentialEstimate",
    "Speedup",
    "estimate",
    "longest_waits",
    "speedup_by_sample",
    "speedup_in_threads",
    "speedup_less_delays",
    "threads_compete",
    "threads_compute",
]

Method = Literal["sample", "held", "cpu"]

_DIVERGES: Final = 1.25  # a claim above this multiple of the interval's upper end is reported
_COMPUTING: Final = 0.8  # the share of its time that a thread computes if it hardly waits
_MOSTLY_FREE: Final = 0.3  # the share of the time that the interpreter's lock may be taken without anything waiting
_LATE: Final = 0.1  # the share of the time that a loop is blocked if it waits for threads


@dataclass(frozen=True, slots=True)
class SequentialEstimate:
    """Estimate of the time that all items would take one after another.

    Args:
        size: Number of sampled items.
        sample_s: Mean time of a sampled item, in seconds: the measurement itself.
        sample_margin_s: Half the width of its 95 % interval, in seconds; infinite for a sample of one from several.
        item_s: Estimated mean time of any item, in seconds.
        margin_s: Half the width of the estimate's 95 % interval, in seconds.
        items: Number of items in the batch.
    """

    size: int
    sample_s: float
    sample_margin_s: float
    item_s: float
    margin_s: float
    items: int

    @property
    def total_s(self) -> float:
        """Estimated time of all items, in seconds."""
        return self.item_s * self.items

    def speedup(self, wall_s: float) -> tuple[float, float, float]:
        """Compare the sequential time with the batch's.

        Args:
            wall_s: Wall time of the batch, in seconds.

        Returns:
            The ratio, and the lower and upper end of its 95 % interval.
        """
        low_s, high_s = max(0.0, self.item_s - self.margin_s), self.item_s + self.margin_s
        return self.total_s / wall_s, low_s * self.items / wall_s, high_s * self.items / wall_s


class Speedup(NamedTuple):  # a frozen dataclass takes far longer to make, for every batch
    """Ratio of the time that a batch's items take one after another to the batch's wall time.

    Args:
        claimed: Sum of the execution times over the wall time. The usual figure, and an upper bound: it counts the
            time that an item waits for others as the item's own.
        measured: The estimate without that time; None if only an interval can be given.
        low: Lower end of the interval.
        high: Upper end of the interval; infinite for a sample of one item.
        method: `sample`: from items that ran one after another, with a 95 % interval. `held`: the claim less the time
            for which items were ready while other code had the loop; the interval covers the uncertainty about when
            they became ready, and at its lower end all that the others may have waited while the loop was busy.
            `cpu`: from the CPU time of attempts in threads, which gives the interval's lower end; for the rest of
            their time the attempts may have waited for each other or for something outside.
        estimate: The sample's estimate, for the method `sample`.
    """

    claimed: float
    measured: float | None
    low: float
    high: float
    method: Method
    estimate: SequentialEstimate | None = None

    @property
    def diverges(self) -> bool:
        """True if the claim is far above the upper end of the interval."""
        return self.claimed > _DIVERGES * max(self.high, self.measured or 0.0)

    def as_dict(self) -> dict[str, Any]:
        """JSON form, for reports and recordings."""
        return {
            "claimed": self.claimed,
            "measured": self.measured,
            "low": self.low,
            "high": self.high if math.isfinite(self.high) else None,  # JSON has no infinity
            "method": self.method,
            "sample_size": None if self.estimate is None else self.estimate.size,
        }


def speedup_less_delays(
    service_s: float, wall_s: float, delays: DelayTotals | None, running_s: float = 0.0, waits_s: float = 0.0
) -> Speedup:
    """Compute the speedup from the execution times less the items' delays.

    Args:
        service_s: Sum of the execution times, in seconds.
        wall_s: Wall time of the batch, in seconds; above 0.
        delays: Time for which items were ready and other code had the loop; None for none.
        running_s: The part of the wall time in which at least one item ran, in seconds: never subtracted.
        waits_s: Upper bound of the items' waits for a loop that was busy and not blocked, in seconds. A beat comes
            between two turns of the loop, so that it sees none of the items that waited within a turn.
    """

    def without(delay_s: float) -> float:
        return min(service_s, max(running_s, service_s - delay_s)) / wall_s

    claimed = service_s / wall_s
    if delays is None:
        return Speedup(claimed, claimed, without(waits_s), claimed, method="held")
    most_ns = delays.most_beside(round(waits_s * 1e9))
    return Speedup(
        claimed, without(delays.total_ns / 1e9), without(most_ns / 1e9), without(delays.least_ns / 1e9), method="held"
    )


def longest_waits(busy_ns: int, claimed: float, limit: int, items: int) -> float:
    """Return an upper bound of the items' waits for a busy loop, in seconds: all others wait while it runs one.

    Args:
        busy_ns: Time for which the loop was busy and not blocked, in nanoseconds.
        claimed: The claimed speedup, which is the mean number of items at once.
        limit: The concurrency limit, which may have been higher before.
        items: Number of items.
    """
    return max(0.0, min(max(limit, claimed), items) - 1) * busy_ns / 1e9


def threads_compute(cpu: CpuTime) -> bool:
    """Return whether attempts in threads computed nearly all of their time, so that they hardly waited.

    Args:
        cpu: Times of the attempts.
    """
    return cpu.wall_ns > 0 and cpu.cpu_ns >= _COMPUTING * cpu.wall_ns


def threads_compete(cpu: CpuTime, wall_s: float, blocked_s: float) -> bool:
    """Return whether attempts in threads may have waited for the interpreter's lock or for a processor.

    The times of an attempt do not distinguish such waits from I/O. But when threads compete for the lock, the loop
    waits for the lock, too; and while the lock is mostly free, hardly any thread waits for it.

    Args:
        cpu: Times of the attempts.
        wall_s: Wall time of the batch, in seconds; above 0.
        blocked_s: The part of it in which the loop was blocked, in seconds.
    """
    if threads_compute(cpu):
        return False
    return cpu.cpu_ns / 1e9 >= _MOSTLY_FREE * wall_s or (cpu.cpu_ns > 0 and blocked_s >= _LATE * wall_s)


def speedup_in_threads(speedup: Speedup, cpu: CpuTime, wall_s: float, blocked_s: float) -> Speedup:
    """Correct the speedup of a batch whose attempts ran in threads, where they may have waited for each other.

    Args:
        speedup: The speedup less the delays on the loop.
        cpu: Times of the attempts.
        wall_s: Wall time of the batch, in seconds; above 0.
        blocked_s: The part of it in which the loop was blocked, in seconds.
    """
    if speedup.claimed <= _DIVERGES:  # hardly two of them ran at once
        return speedup
    low, high = cpu.cpu_ns / 1e9 / wall_s, min(speedup.claimed, cpu.wall_ns / 1e9 / wall_s)
    if threads_compute(cpu):
        return speedup._replace(measured=(low + high) / 2, low=low, high=high, method="cpu")
    if threads_compete(cpu, wall_s, blocked_s):
        return speedup._replace(measured=None, low=low, high=high, method="cpu")
    return speedup


def speedup_by_sample(service_s: float, wall_s: float, found: SequentialEstimate) -> Speedup:
    """Compute the speedup from a sequential sample.

    Args:
        service_s: Sum of the execution times, in seconds.
        wall_s: Wall time of the batch, in seconds; above 0.
        found: The sample's estimate.
    """
    measured, low, high = found.speedup(wall_s)
    return Speedup(service_s / wall_s, measured, low, high, "sample", found)


def estimate(
    alone: Mapping[int, float], together: Mapping[int, float], mean_s: float, items: int
) -> SequentialEstimate:
    """Estimate the sequential time of all items from a sample and from the batch's own times.

    If one item in a hundred takes forty times as long as the others, the plain mean of a small sample depends mostly
    on how many of those it caught. This is the difference estimator of survey sampling: the mean time in the batch,
    less the time that the batch added to the sampled items. It is not a plain measurement, so the sample's own mean
    is given beside it. The interval covers the added time. It is too narrow for a batch that slows down only its rare
    stragglers, since a sample may miss them.

    Args:
        alone: Times of the sampled items one after another, in seconds, by their place in the input.
        together: Times of the same items in the batch, in seconds.
        mean_s: Mean time of an item in the batch, in seconds.
        items: Number of items in the batch.

    Raises:
        ValueError: The sample is empty.
    """
    if not alone:
        raise ValueError("an estimate needs at least one sampled item")
    size = len(alone)
    added = [together[place] - seconds for place, seconds in alone.items()]
    alone_s, added_s = math.fsum(alone.values()) / size, math.fsum(added) / size
    return SequentialEstimate(
        size,
        alone_s,
        _margin([seconds - alone_s for seconds in alone.values()], items),
        mean_s - added_s,
        _margin([more - added_s for more in added], items),
        items,
    )


def _margin(residuals: Sequence[float], items: int) -> float:
    """Half the width of a mean's 95 % interval: 0 if the sample holds every item."""
    size = len(residuals)
    if size >= items:
        return 0.0
    if size < 2:
        return math.inf
    variance = sum(residual**2 for residual in residuals) / (size - 1)
    return students_t(size - 1) * math.sqrt(variance / size * (1 - size / items))
