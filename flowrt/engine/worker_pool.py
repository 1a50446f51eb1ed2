"""Pool of slots: the bound on how many items run at once."""

from __future__ import annotations

from contextvars import Context
from typing import Final, Protocol

from flowrt.engine.attempt import Begin
from flowrt.engine.caching import BatchCache
from flowrt.engine.cancellation import Cancellation
from flowrt.engine.item_task import NEW_SLOT, ItemTask
from flowrt.engine.parts import RunParts
from flowrt.engine.retry_queue import RetryQueue
from flowrt.engine.source import Source
from flowrt.engine.worker import Worker
from flowrt.model import Slot

__all__ = ["WorkerPool"]

_AT_ONCE: Final = 128  # workers that start at once if the inputs are in memory, where none waits for the next input


class _Run(Protocol):
    """Interface of the batch run."""

    def slots_ended(self) -> None:
        """End the batch after its last slot has ended."""


class WorkerPool:
    """Slots of one batch run. Workers start in them as inputs arrive.

    Args:
        parts: The run's parts.
        source: Source of the items.
        retries: Queue of the items that wait for another attempt; None without retries and cache.
        cache: Cached outputs of earlier inputs; None without a cache.
        begin: Begins one attempt.
        cancellation: Ends items early.
        context: Context of the batch; each item's task runs in a copy.
        run: Notified when the last slot has ended.

    Attributes:
        vacant: Number of slots without a worker; negative after the limit was lowered: so many slots must end.
        starting: Number of workers whose task has not begun.
    """

    __slots__ = (
        "_admission",
        "_batch",
        "_cancellation",
        "_clock",
        "_context",
        "_loop",
        "_run",
        "_worker",
        "starting",
        "vacant",
    )

    def __init__(
        self,
        parts: RunParts,
        source: Source,
        retries: RetryQueue | None,
        cache: BatchCache | None,
        begin: Begin,
        cancellation: Cancellation,
        context: Context,
        run: _Run,
    ) -> None:
        self.vacant = parts.batch.limit
        self.starting = 0
        self._batch = parts.batch
        self._loop = parts.loop
        self._clock = parts.clock
        self._admission = parts.admission
        self._cancellation = cancellation
        self._context = context
        self._run = run
        self._worker = Worker(parts, source, retries, cache, begin, cancellation, self, context)

    def fill(self) -> None:
        """Start workers in vacant slots: one for each input of a short batch, else as many as there are already."""
        if self._admission.closed:
            return
        batch, worker = self._batch, self._worker
        slots = batch.slots
        most = worker.most_left
        if slots and not most:
            return
        step = _AT_ONCE if worker.knows_length else 1
        if not slots:
            most = max(1, most)  # a batch without inputs needs one worker, which ends it
        for _ in range(min(self.vacant, max(step, len(slots)), most)):
            self.vacant -= 1
            self.starting += 1
            slot = Slot()
            slot.place = len(slots)
            slots.append(slot)
            slot.task = ItemTask(
                worker.run(slot, NEW_SLOT), loop=self._loop, name=batch.name, context=self._context.copy()
            )

    def end_slot(self, slot: Slot) -> None:
        """Remove a slot that has no further item. The last slot ends the batch."""
        slots = self._batch.slots
        last = slots.pop()
        if last is not slot:  # the last slot takes its place: a search among 10,000 slots costs more than their items
            place = slot.place
            if place >= len(slots) or slots[place] is not slot:
                place = slots.index(slot)
            slots[place], last.place = last, place
        slot.task = None
        if not slots:
            self._run.slots_ended()
        elif (ledger := self._batch.ledger) is not None and ledger.full and self._batch.completed:
            ledger.slot_vacated(self._clock())

    def replace_slot(self) -> None:
        """Start a worker in place of a slot whose item was abandoned, unless the batch is stopped."""
        if self._cancellation.stopped is None:
            self.vacant += 1
            self.fill()
        if not self._batch.slots:
            self._run.slots_ended()

    def resize(self, more: int) -> None:
        """Change the number of slots. Surplus slots end as their items end.

        Args:
            more: Slots to add; negative to remove some.
        """
        self.vacant += more
        if self.vacant > 0 and self._batch.slots and not self.starting:
            self.fill()

    def close(self) -> None:
        """Release the worker and, with it, the inputs."""
        del self._worker, self._run
