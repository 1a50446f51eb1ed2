"""Who was held up while the loop was blocked: the items in flight that could have gone on and had to wait.

Looked at when the loop turns again, before any of them runs: a task whose future is done, or that waits for none, is
ready. Nothing is kept per item for it, and nothing is done while the loop turns in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from flowrt.attribution.stalls import DelayTotals, Stall, most_delayed
from flowrt.model import BatchRecord, ItemRecord, Slot

__all__ = ["TURNS", "Lateness", "sample_ready"]

_STALL_NS: Final = 100_000_000  # what is shorter is counted and not kept
_MOST_SLOTS: Final = 2_000  # looked at after a stall, and
_SAMPLED_SLOTS: Final = 64  # at a beat of a busy loop

TURNS: Final = 2
"""After so many more turns every timer and socket that was ready has told so, on asyncio's loop and on uvloop."""


class Lateness:
    """One time that the loop turned late.

    Args:
        beaten_ns: When it had turned before.
        due_ns: When it should have turned.
        now_ns: When it did.
        seen: The tasks that had the loop meanwhile, one for each look that somebody took.
    """

    def __init__(self, beaten_ns: int, due_ns: int, now_ns: int, seen: Sequence[asyncio.Task[Any] | None] = ()) -> None:
        self.beaten_ns = beaten_ns
        self.due_ns = due_ns
        self.now_ns = now_ns
        self._seen = seen
        self._scenes: list[_Scene] = []

    @property
    def late_ns(self) -> int:
        """How late it was."""
        return self.now_ns - self.due_ns

    @property
    def is_stall(self) -> bool:
        """Whether it was late enough to be told of."""
        return self.late_ns >= _STALL_NS

    @property
    def waits(self) -> bool:
        """Whether there are items that may turn out to have been ready."""
        return any(scene.waiting for scene in self._scenes)

    @property
    def delayed(self) -> int:
        """How many items were held up, as far as is known."""
        return sum(len(scene.victims) for scene in self._scenes)

    @property
    def held_s(self) -> float:
        """For how long, summed over them, in seconds."""
        return sum(held_ns for scene in self._scenes for held_ns in scene.victims.values()) / 1e9

    def look(self, batch: BatchRecord, before: int) -> None:
        """Find a batch's items that are ready.

        Args:
            batch: It is watched, so it has a ledger.
            before: How many items it had in flight when the loop had turned before.
        """
        if batch.ledger is None:
            return
        scene = _Scene(batch, batch.ledger.delays, is_stall=self.is_stall)
        self._scenes.append(scene)
        late_ns, running, known, old = self.late_ns, False, False, 0
        for slot in batch.slots[:_MOST_SLOTS]:
            item, task = slot.item, slot.task
            if item is None or task is None or not item.started_ns:
                continue
            old += item.started_ns <= self.due_ns
            waiter = getattr(task, "_fut_waiter", None)
            held_ns = self.now_ns - max(self.due_ns, item.started_ns)
            if looks := self._seen.count(task):
                held_ns -= late_ns * looks // len(self._seen)
                known = True
            if waiter is None:
                scene.held.known_ns += held_ns
                scene.blame(item, held_ns)
                running = True
            elif waiter.done():
                scene.held.guessed_ns += held_ns
                scene.blame(item, held_ns // 2)
            else:
                scene.waiting.append((slot, item, waiter, held_ns))
        # each of those that have ended meanwhile was held until it did; but one of them may have had the loop
        ended = max(0, before - old)
        scene.held.guessed_ns += (ended if known or running else max(0, ended - 1)) * late_ns
        if running and not known:
            scene.held.own_ns += late_ns  # one of them had the loop

    def look_again(self) -> None:
        """A turn later: timers and sockets that were ready have told so."""
        for scene in self._scenes:
            left = []
            for slot, item, waiter, held_ns in scene.waiting:
                if waiter.done() or slot.item is not item:
                    scene.held.guessed_ns += held_ns
                    scene.blame(item, held_ns // 2)
                else:
                    left.append((slot, item, waiter, held_ns))
            scene.waiting = left

    def keep(self, culprit: dict[str, Any]) -> None:
        """Write the stall down for each batch.

        Args:
            culprit: What is known about it, by the names that `Stall` gives it.
        """
        for scene in self._scenes:
            victims = list(scene.victims.items())
            scene.held.add_stall(
                Stall(
                    began_ns=max(0, self.due_ns - scene.batch.started_ns),
                    duration_s=self.late_ns / 1e9,
                    delayed=len(victims),
                    held_s=sum(held_ns for _, held_ns in victims) / 1e9,
                    victims=most_delayed(victims),
                    **culprit,
                )
            )


class _Scene:
    """What one batch looked like when the loop turned again."""

    def __init__(self, batch: BatchRecord, held: DelayTotals, *, is_stall: bool) -> None:
        self.batch = batch
        self.held = held
        self.is_stall = is_stall
        self.victims: dict[int, int] = {}
        self.waiting: list[tuple[Slot, ItemRecord, Any, int]] = []

    def blame(self, item: ItemRecord, held_ns: int) -> None:
        """The item was held up: it knows for how long, and after a stall its span will say so when it ends.

        To tell the span now would take the loop 50 µs an item, and make it late again.
        """
        if held_ns <= 0:
            return
        item.held_ns += held_ns
        self.victims[item.index] = held_ns
        if self.is_stall:
            item.stalled_ns = item.held_ns


def sample_ready(batch: BatchRecord, passed_ns: int) -> None:
    """Look at some of a busy loop's items: those that are ready wait for each other.

    Args:
        batch: The batch.
        passed_ns: The time since the last look, for which this one stands.
    """
    if batch.ledger is None:
        return
    slots = batch.slots
    step = 1 + len(slots) // _SAMPLED_SLOTS
    ready = 0
    for slot in slots[::step]:
        item, task = slot.item, slot.task
        if item is not None and task is not None and item.started_ns:
            waiter = getattr(task, "_fut_waiter", None)
            ready += waiter is None or waiter.done()
    batch.ledger.delays.add_sample(passed_ns * max(0, ready * step - 1))
