"""Two figures for the speedup over one item at a time: the one that everybody claims, and a measured one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, Literal

from flowrt._util.intervals import students_t
from flowrt.attribution.stalls import Held

__all__ = ["Method", "SequentialEstimate", "Speedup", "estimate", "speedup_by_held", "speedup_by_sample"]

Method = Literal["sample", "held"]

_APART: Final = 1.25  # claims of more than this times the measured figure's upper end are told of


@dataclass(frozen=True, slots=True)
class SequentialEstimate:
    """How long all items would take one after another.

    Args:
        size: How many were measured.
        sample_s: What was measured: the mean time of a sampled item, in seconds.
        sample_margin_s: Half the width of the 95 % interval around it, in seconds; infinite for a sample of one
            from several.
        item_s: The estimate for the mean time of any item, in seconds.
        margin_s: As above, for the estimate.
        items: How many there are in all.
    """

    size: int
    sample_s: float
    sample_margin_s: float
    item_s: float
    margin_s: float
    items: int

    @property
    def total_s(self) -> float:
        """The estimated mean times the number of items, in seconds."""
        return self.item_s * self.items

    def speedup(self, wall_s: float) -> tuple[float, float, float]:
        """How many times as long it would take: the estimate, and its 95 % interval's lower and upper end.

        Args:
            wall_s: What the batch took, in seconds.
        """
        low_s, high_s = max(0.0, self.item_s - self.margin_s), self.item_s + self.margin_s
        return self.total_s / wall_s, low_s * self.items / wall_s, high_s * self.items / wall_s


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times as long a batch's work takes one item after another.

    Args:
        claimed: Sum of the execution times over the wall time. The usual figure, and an upper bound: time in which an
            item was held up by others counts as its own.
        measured: The honest figure.
        low: The lower end of its interval.
        high: The upper end; infinite where a sample of one says nothing of it.
        method: `sample`: some items were run one after another, and the interval is of 95 %. `held`: the claim less
            the time for which items were ready and something else had the loop; the interval is of what is not known
            about when they became ready.
        estimate: What the sample came to.
    """

    claimed: float
    measured: float
    low: float
    high: float
    method: Method
    estimate: SequentialEstimate | None = None

    @property
    def diverges(self) -> bool:
        """Whether the claim is far above anything that the measured figure could be."""
        return self.claimed > _APART * max(self.high, self.measured)

    def as_dict(self) -> dict[str, Any]:
        """As it is written to a report."""
        return {
            "claimed": self.claimed,
            "measured": self.measured,
            "low": self.low,
            "high": self.high if math.isfinite(self.high) else None,  # JSON has no infinity
            "method": self.method,
            "sample_size": None if self.estimate is None else self.estimate.size,
        }


def speedup_by_held(service_s: float, wall_s: float, held: Held, running_s: float = 0.0) -> Speedup:
    """The speedup with the time for which items were held up by others taken away.

    Args:
        service_s: Sum of the execution times, in seconds.
        wall_s: What the batch took, in seconds; more than 0.
        held: For how long items were held up.
        running_s: For how much of the wall time some item went on, and so was not held, in seconds.
    """

    def without(held_ns: int) -> float:
        return min(service_s, max(running_s, service_s - held_ns / 1e9)) / wall_s

    return Speedup(
        service_s / wall_s, without(held.total_ns), without(held.most_ns), without(held.least_ns), method="held"
    )


def speedup_by_sample(service_s: float, wall_s: float, found: SequentialEstimate) -> Speedup:
    """The speedup over what a sequential sample says.

    Args:
        service_s: Sum of the execution times, in seconds.
        wall_s: What the batch took, in seconds; more than 0.
        found: What the sample came to.
    """
    measured, low, high = found.speedup(wall_s)
    return Speedup(service_s / wall_s, measured, low, high, "sample", found)


def estimate(
    alone: Mapping[int, float], together: Mapping[int, float], mean_s: float, items: int
) -> SequentialEstimate:
    """Estimate the sequential time of all items from a sample of them and from what each took in the batch.

    One item in a hundred takes forty times as long as the others, so the plain mean of a small sample says more about
    how many of those it caught than about the work. This is the survey's difference estimate: what every item took in
    the batch, less what being in the batch added to the sampled ones. It is no plain measurement, so the sample's own
    mean is given beside it. The interval is of that addition; where a batch slows down only its rare stragglers, which
    a sample may miss, it is too narrow.

    Args:
        alone: What sampled items took one after another, in seconds, by their place in the input.
        together: What those items took in the batch, in seconds.
        mean_s: What an item of the batch took on average, in seconds.
        items: How many items there were.

    Raises:
        ValueError: Nothing was sampled.
    """
    if not alone:
        raise ValueError("an estimate needs at least one sampled item")
    size = len(alone)
    added = [together[place] - seconds for place, seconds in alone.items()]
    alone_s, added_s = fmean(alone.values()), fmean(added)
    return SequentialEstimate(
        size,
        alone_s,
        _margin([seconds - alone_s for seconds in alone.values()], items),
        mean_s - added_s,
        _margin([more - added_s for more in added], items),
        items,
    )


def _margin(residuals: Sequence[float], items: int) -> float:
    """Half the width of a mean's 95 % interval; a sample of everything leaves no doubt."""
    size = len(residuals)
    if size >= items:
        return 0.0
    if size < 2:
        return math.inf
    variance = sum(residual**2 for residual in residuals) / (size - 1)
    return students_t(size - 1) * math.sqrt(variance / size * (1 - size / items))
