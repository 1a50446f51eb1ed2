"""Two figures for the speedup over one item at a time: the one that everybody claims, and a measured one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from flowrt.stalls import Held

if TYPE_CHECKING:
    from flowrt.sequential import SequentialEstimate

__all__ = ["Method", "Speedup", "speedup_by_held", "speedup_by_sample"]

Method = Literal["sample", "held"]

_APART: Final = 1.25  # claims of more than this times the measured figure's upper end are told of


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
