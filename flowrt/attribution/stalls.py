"""Stalls of the event loop: the culprit, the items that it delayed, and the sums over a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["DelayTotals", "Stall", "most_delayed"]

_MOST_STALLS: Final = 100
_MOST_ITEMS: Final = 20


@dataclass(frozen=True, slots=True)
class Stall:
    """One period in which the event loop did not turn while a batch was active.

    Args:
        began_ns: When the loop became late, in nanoseconds from the batch's start.
        duration_s: Length of the stall, in seconds.
        batch: The culprit's batch, or None if the culprit is not an item.
        batch_id: The id of that batch.
        node: The culprit's node.
        item_index: The culprit's index in its batch.
        trace_id: The culprit's trace.
        stack: Python stack of the culprit, one frame per line, innermost last; empty if it was not sampled.
        delayed: Number of this batch's items that were ready during the stall.
        held_s: Sum of their delays, in seconds.
        victims: Indices of the most delayed items, each with its delay in seconds.
        garbage_collection: True if Python's garbage collector took most of the time, not the code on the stack.
    """

    began_ns: int
    duration_s: float
    batch: str | None = None
    batch_id: str | None = None
    node: str | None = None
    item_index: int | None = None
    trace_id: str | None = None
    stack: str = ""
    delayed: int = 0
    held_s: float = 0.0
    victims: tuple[tuple[int, float], ...] = ()
    garbage_collection: bool = False

    @property
    def culprit(self) -> str:
        """The culprit in words."""
        if self.garbage_collection:
            return "the garbage collector"
        if self.node is None:
            return "code that is no item's" if self.stack else "not known"
        return f"{self.node} item {self.item_index}"

    def as_dict(self) -> dict[str, Any]:
        """JSON form, for reports and recordings."""
        return {
            "began_s": self.began_ns / 1e9,
            "duration_s": self.duration_s,
            "culprit": self.culprit,
            "batch": self.batch,
            "batch_id": self.batch_id,
            "node": self.node,
            "item_index": self.item_index,
            "trace_id": self.trace_id,
            "stack": self.stack,
            "victims": self.delayed,
            "delayed_s": self.held_s,
            "held": [list(victim) for victim in self.victims],
        }


@dataclass(slots=True)
class DelayTotals:
    """Time for which a batch's items were ready to run while other code had the loop, summed over the items.

    Readiness is observed at the end of a stall. An item that was ready before the stall waited for all of it. An item
    that became ready during the stall waited for part of it: half is the best estimate, and the interval says so.

    Attributes:
        known_ns: Delays that are certain, in nanoseconds.
        likely_ns: Delays that are likely, of items that ended in a long turn; they count in full.
        guessed_ns: Upper bound of the uncertain delays, in nanoseconds; half of it is the best estimate.
        own_ns: The part of both that may have been the items' own running time.
        stalls: The longest stalls.
        stalled: Number of stalls.
    """

    known_ns: int = 0
    likely_ns: int = 0
    guessed_ns: int = 0
    own_ns: int = 0
    stalls: list[Stall] = field(default_factory=list)
    stalled: int = 0
    _samples: int = 0
    _sampled_ns: int = 0
    _squares: float = 0.0

    def add_sample(self, delay_ns: int) -> None:
        """Add the delays on a busy loop since the previous sample, estimated from the items that are ready now."""
        self._samples += 1
        self._sampled_ns += delay_ns
        self._squares += float(delay_ns) ** 2

    def add_stall(self, stall: Stall) -> None:
        """Keep a stall. Beyond the limit, the shortest is dropped."""
        self.stalled += 1
        self.stalls.append(stall)
        if len(self.stalls) > _MOST_STALLS:
            self.stalls.remove(min(self.stalls, key=lambda each: each.duration_s))

    @property
    def total_ns(self) -> int:
        """Best estimate, in nanoseconds."""
        return max(0, self.known_ns + self.likely_ns + self.guessed_ns // 2 + self._sampled_ns - self.own_ns)

    @property
    def least_ns(self) -> int:
        """Lower end of the estimate, in nanoseconds."""
        return max(0, self.known_ns + self._sampled_ns - self.own_ns - self._margin_ns())

    @property
    def most_ns(self) -> int:
        """Upper end of the estimate, in nanoseconds."""
        return self.most_beside(0)

    def most_beside(self, waits_ns: int) -> int:
        """Upper end of the estimate, in nanoseconds, if samples may miss waits within one turn of a busy loop.

        Args:
            waits_ns: Upper bound of the delays while the loop was busy and not blocked.
        """
        return self.known_ns + self.likely_ns + self.guessed_ns + max(waits_ns, self._sampled_ns + self._margin_ns())

    def _margin_ns(self) -> int:
        if not self._samples:
            return 0
        variance = max(0.0, self._squares - self._sampled_ns**2 / self._samples)
        return int(2 * math.sqrt(variance)) if self._samples > 1 else self._sampled_ns


def most_delayed(items: list[tuple[int, int]]) -> tuple[tuple[int, float], ...]:
    """Select the 20 most delayed items.

    Args:
        items: Indices, each with its delay in nanoseconds.

    Returns:
        Indices, each with its delay in seconds, the longest delay first.
    """
    most = sorted(items, key=lambda item: -item[1])[:_MOST_ITEMS]
    return tuple([(index, delay_ns / 1e9) for index, delay_ns in most])
