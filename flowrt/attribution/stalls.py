"""Stalls of the event loop: who blocked it, and who was held up meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Held", "Stall", "some_victims"]

_MOST_STALLS: Final = 100
_MOST_VICTIMS: Final = 20


@dataclass(frozen=True, slots=True)
class Stall:
    """One time that the loop did not turn while a batch was under way.

    Args:
        began_ns: When it was first noticed to be late, in nanoseconds from the batch's start.
        duration_s: How long it lasted from then on, in seconds.
        batch: The culprit's batch, or None where the culprit is no item.
        batch_id: That batch's id.
        node: The culprit's node.
        item_index: The culprit's place in its batch's input.
        trace_id: The culprit's trace.
        stack: Where in the code it was, one frame a line, innermost last; empty where nobody looked.
        delayed: How many items of this batch were held up by it.
        held_s: For how long, summed over them, in seconds.
        victims: The indices of some of them, with the seconds that each was held.
        garbage_collection: It was Python's garbage collector for the most part, and no code of anybody's.
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
        """Who it was, in words."""
        if self.garbage_collection:
            return "the garbage collector"
        if self.node is None:
            return "code that is no item's" if self.stack else "not known"
        return f"{self.node} item {self.item_index}"

    def as_dict(self) -> dict[str, Any]:
        """As it is written to a report."""
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
class Held:
    """For how long a batch's items were ready to go on while something else had the loop, summed over them.

    What is known of an item is that it was ready at the end of a stall. One that had been ready before the stall was
    held for all of it; one that became ready meanwhile for some of it, and half is the best guess.

    Attributes:
        known_ns: What is known, in nanoseconds.
        guessed_ns: At most this much more; half of it is the best guess.
        own_ns: Of these, what may have been the items' own time.
        stalls: The latest stalls.
        stalled: How many there were.
    """

    known_ns: int = 0
    guessed_ns: int = 0
    own_ns: int = 0
    stalls: list[Stall] = field(default_factory=list)
    stalled: int = 0
    _samples: int = 0
    _sampled_ns: int = 0
    _squares: float = 0.0

    def add_sample(self, held_ns: int) -> None:
        """What the items of a busy loop were held since the last look, by how many were ready at this one."""
        self._samples += 1
        self._sampled_ns += held_ns
        self._squares += float(held_ns) ** 2

    def add_stall(self, stall: Stall) -> None:
        """Keep a stall; of too many, the longest."""
        self.stalled += 1
        self.stalls.append(stall)
        if len(self.stalls) > _MOST_STALLS:
            self.stalls.remove(min(self.stalls, key=lambda each: each.duration_s))

    @property
    def total_ns(self) -> int:
        """The best estimate, in nanoseconds."""
        return max(0, self.known_ns + self.guessed_ns // 2 + self._sampled_ns - self.own_ns)

    @property
    def least_ns(self) -> int:
        """The estimate's lower end."""
        return max(0, self.known_ns + self._sampled_ns - self.own_ns - self._margin_ns())

    @property
    def most_ns(self) -> int:
        """The estimate's upper end."""
        return self.known_ns + self.guessed_ns + self._sampled_ns + self._margin_ns()

    def _margin_ns(self) -> int:
        if not self._samples:
            return 0
        variance = max(0.0, self._squares - self._sampled_ns**2 / self._samples)
        return int(2 * math.sqrt(variance)) if self._samples > 1 else self._sampled_ns


def some_victims(victims: list[tuple[int, int]]) -> tuple[tuple[int, float], ...]:
    """The most delayed of them.

    Args:
        victims: Indices, with the nanoseconds that each was held.
    """
    most = sorted(victims, key=lambda victim: -victim[1])[:_MOST_VICTIMS]
    return tuple([(index, held_ns / 1e9) for index, held_ns in most])
