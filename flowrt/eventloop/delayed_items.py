"""Items delayed while the event loop was blocked: they were ready to run and had to wait.

Delayed items are found when the loop turns again, before any item runs. An item is ready if its task waits for no
future, or for a future that is done. An item that ended in the long turn was ready before that turn. An item that ran
in the long turn and waits again does so for a different future than before; `note_waiting` records the futures of a
few slots for that comparison.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from flowrt.attribution.stalls import DelayTotals, Stall, most_delayed
from flowrt.model import BatchRecord, ItemRecord, Slot

__all__ = ["TURNS", "Ended", "Lateness", "LivelyBatches", "Waiting", "note_waiting", "sample_ready"]

_STALL_NS: Final = 100_000_000  # shorter lateness is counted, but not kept as a stall
_MOST_SLOTS: Final = 2_000  # examined in one batch after a late beat
_LEAST_NS: Final = 1_000_000  # a shorter delay of an item that ended is not worth counting
_SAMPLED_SLOTS: Final = 64  # examined in one batch at a beat of a busy loop
_NOTED_SLOTS: Final = 128  # of all batches of a loop, at each beat

_MOST_LIVELY: Final = 64
_CALM_AFTER: Final = 40  # examinations in a row at which no item waited

TURNS: Final = 2
"""After this many more turns, every timer and socket that was ready has woken its task, on asyncio and on uvloop."""

Ended = dict[BatchRecord, list[tuple[ItemRecord, int]]]
"""Items that ended since the beat was due, by batch, each with the time at which another item ended before it."""

Waiting = dict[int, asyncio.Future[Any]]
"""Futures that items waited for at one time, by the item's `id`."""


class LivelyBatches(dict[BatchRecord, int]):
    """Batches that have just started, or whose items waited for the loop lately, oldest first.

    Each has the number of examinations since then. These batches are examined at each beat of a busy loop: there may be
    thousands of others that only wait, and if all took turns, a batch that computes would be examined too rarely for
    its speedup.
    """

    def drop_oldest(self) -> None:
        """Drop the oldest batches beyond a limit. Adding a batch does not, as that is a part of each batch's cost."""
        for batch in [*self][: max(0, len(self) - _MOST_LIVELY)]:
            del self[batch]

    def note(self, batch: BatchRecord, *, waited: bool) -> None:
        """Record that a batch was examined.

        Args:
            batch: The batch.
            waited: True if items waited for the loop.
        """
        if waited:
            self.pop(batch, None)  # it becomes the newest
            self[batch] = 0
        elif (calm := self.get(batch)) is not None:
            self[batch] = calm + 1
            if calm >= _CALM_AFTER:
                del self[batch]


class Lateness:
    """One late turn of the loop.

    Args:
        beaten_ns: When the previous beat ended.
        due_ns: When the late beat was due.
        now_ns: When the late beat came.
        seen: The task that had the loop, for each sample during the turn.
        ready: `id` of each item that was seen ready meanwhile, with the time of the last such sample.
        ended: Items that ended meanwhile.
        waited: Futures that items waited for when the beat before it ended, or after the loop was blocked for a while.
    """

    def __init__(
        self,
        beaten_ns: int,
        due_ns: int,
        now_ns: int,
        *,
        seen: Sequence[asyncio.Task[Any] | None] = (),
        ready: Mapping[int, int] | None = None,
        ended: Ended | None = None,
        waited: Waiting | None = None,
    ) -> None:
        self.beaten_ns = beaten_ns
        self.due_ns = due_ns
        self.now_ns = now_ns
        self._seen = seen
        self._ready = ready or {}
        self._ended = ended or {}
        # an item that has run since the beat most likely ran in the long turn, if that is most of the time since
        self._waited = (waited or {}) if self.late_ns > due_ns - beaten_ns else {}
        self._one_left_out = False
        self._scenes: list[_Scene] = []

    @property
    def late_ns(self) -> int:
        """How late the beat came."""
        return self.now_ns - self.due_ns

    @property
    def is_stall(self) -> bool:
        """True if the turn is long enough to be reported as a stall."""
        return self.late_ns >= _STALL_NS

    @property
    def waits(self) -> bool:
        """True while some items may still prove to have been ready."""
        return any(scene.waiting for scene in self._scenes)

    @property
    def delayed(self) -> int:
        """Number of delayed items, as far as is known."""
        return sum(len(scene.delayed) for scene in self._scenes)

    @property
    def held_s(self) -> float:
        """Sum of the items' delays, in seconds."""
        return sum(delay_ns for scene in self._scenes for delay_ns in scene.delayed.values()) / 1e9

    def look(self, batch: BatchRecord) -> bool:
        """Find the delayed items of a batch, and return True if there are any so far.

        Args:
            batch: A watched batch, which has a ledger.
        """
        if batch.ledger is None:
            return False
        scene = _Scene(batch, batch.ledger.delays, is_stall=self.is_stall)
        self._scenes.append(scene)
        late_ns, running, known = self.late_ns, False, False
        went_on: list[tuple[ItemRecord, int]] = []
        due_ns, now_ns, seen = self.due_ns, self.now_ns, self._seen
        for slot in batch.slots[:_MOST_SLOTS]:
            item, task = slot.item, slot.task
            if item is None or task is None or not (started_ns := item.started_ns):
                continue
            waiter = getattr(task, "_fut_waiter", None)
            begin_ns = max(started_ns, due_ns)
            delay_ns = now_ns - begin_ns
            if seen and (looks := seen.count(task)):
                delay_ns -= late_ns * looks // len(self._seen)
                known = True
            if waiter is None:
                scene.totals.known_ns += delay_ns
                scene.add(item, delay_ns)
                running = True
            elif waiter.done():
                scene.totals.guessed_ns += delay_ns
                scene.add(item, delay_ns // 2)
            elif id(item) in self._ready:
                # the item was ready, has run since, and waits for another future now
                seen_ns = min(delay_ns, max(0, self._ready[id(item)] - begin_ns))
                scene.totals.known_ns += seen_ns
                scene.totals.guessed_ns += delay_ns - seen_ns
                scene.add(item, (delay_ns + seen_ns) // 2)
            elif self._waited.get(id(item), waiter) is not waiter:  # the same, but the item was not seen ready
                went_on.append((item, delay_ns))
            else:
                scene.waiting.append((slot, item, waiter, delay_ns))
        had_loop = self._look_at_ended(scene)
        if running and not known and not had_loop:
            scene.totals.own_ns += late_ns  # one of the running items had the loop
        if went_on and not (seen or running or had_loop or self._one_left_out):
            del went_on[0]  # as likely as not, one of these items had the loop
            self._one_left_out = True
        for item, delay_ns in went_on:
            scene.totals.guessed_ns += delay_ns
            scene.add(item, delay_ns // 2)
        return bool(scene.delayed)

    def _look_at_ended(self, scene: _Scene) -> bool:
        """Find the delayed items among those that ended in the long turn.

        An item was delayed until another item ended before it, since all tasks of a turn are ready when the turn
        begins. After that, the item may have had the loop itself.

        Returns:
            True if one of those items is likely to have had the loop for most of the time.
        """
        had_loop = False
        for item, before_ns in self._ended.get(scene.batch, ()):
            begin_ns = max(self.due_ns, item.started_ns)
            if not item.started_ns or item.finished_ns <= begin_ns:
                continue
            seen_ns = max(0, self._ready.get(id(item), 0) - begin_ns)
            delay_ns = max(seen_ns, before_ns - begin_ns)
            had_loop |= item.finished_ns - begin_ns - delay_ns > self.late_ns // 2
            scene.totals.known_ns += seen_ns
            scene.totals.likely_ns += delay_ns - seen_ns
            if delay_ns >= _LEAST_NS:
                scene.add(item, delay_ns)
        return had_loop

    def look_again(self) -> None:
        """Look at the waiting items one turn later: timers and sockets that were ready have woken their tasks."""
        for scene in self._scenes:
            left = []
            for slot, item, waiter, delay_ns in scene.waiting:
                if waiter.done() or slot.item is not item:
                    scene.totals.guessed_ns += delay_ns
                    scene.add(item, delay_ns // 2)
                else:
                    left.append((slot, item, waiter, delay_ns))
            scene.waiting = left

    def keep(self, culprit: dict[str, Any]) -> None:
        """Record the stall for each batch.

        Args:
            culprit: Fields of `Stall` that describe the culprit, as far as known.
        """
        for scene in self._scenes:
            delayed = list(scene.delayed.items())
            scene.totals.add_stall(
                Stall(
                    began_ns=max(0, self.due_ns - scene.batch.started_ns),
                    duration_s=self.late_ns / 1e9,
                    delayed=len(delayed),
                    held_s=sum(delay_ns for _, delay_ns in delayed) / 1e9,
                    victims=most_delayed(delayed),
                    **culprit,
                )
            )


class _Scene:
    """State of one batch when the loop turned again."""

    def __init__(self, batch: BatchRecord, totals: DelayTotals, *, is_stall: bool) -> None:
        self.batch = batch
        self.totals = totals
        self.is_stall = is_stall
        self.delayed: dict[int, int] = {}
        self.waiting: list[tuple[Slot, ItemRecord, Any, int]] = []

    def add(self, item: ItemRecord, delay_ns: int) -> None:
        """Record an item's delay. After a stall its span gets it, too, when the item ends.

        Setting it on the span now would take 50 µs per item, and would make the loop late again.
        """
        if delay_ns <= 0:
            return
        item.held_ns += delay_ns
        self.delayed[item.index] = delay_ns
        if self.is_stall:
            item.stalled_ns = item.held_ns


def note_waiting(batches: Iterable[BatchRecord]) -> Waiting:
    """Return the futures that items wait for now, in the first slots of all batches.

    The number of slots is bounded, so that the cost of a beat does not grow with the number of batches.
    """
    waiting: Waiting = {}
    left = _NOTED_SLOTS
    for batch in batches:
        slots = batch.slots
        for slot in slots if len(slots) <= left else slots[:left]:
            item = slot.item
            if item is not None and (waiter := getattr(slot.task, "_fut_waiter", None)) is not None:
                waiting[id(item)] = waiter
        left -= 1 + len(slots)
        if left <= 0:
            break
    return waiting


def sample_ready(batch: BatchRecord, passed_ns: int) -> int:
    """Sample the items of a busy loop: those that are ready wait for each other.

    Args:
        batch: The batch.
        passed_ns: The time that the sample stands for.

    Returns:
        The estimated number of items that are ready.
    """
    if batch.ledger is None:
        return 0
    slots = batch.slots
    step = 1 + len(slots) // _SAMPLED_SLOTS
    ready = 0
    for slot in slots[::step]:
        item, task = slot.item, slot.task
        if item is not None and task is not None and item.started_ns:
            waiter = getattr(task, "_fut_waiter", None)
            ready += waiter is None or waiter.done()
    batch.ledger.delays.add_sample(passed_ns * max(0, ready * step - 1))
    return ready * step
