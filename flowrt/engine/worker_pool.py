"""The pool of slots: as many items run at once as it has slots."""

from __future__ import annotations

from contextvars import Context
from typing import Final, Protocol

from flowrt.engine.attempt import Begin
from flowrt.engine.caching import BatchCache
from flowrt.engine.cancellation import Cancellation
from flowrt.engine.item_task import HIRED, ItemTask
from flowrt.engine.parts import RunParts
from flowrt.engine.retry_queue import RetryQueue
from flowrt.engine.source import Source
from flowrt.engine.worker import Worker
from flowrt.model import Slot

__all__ = ["WorkerPool"]

_AT_ONCE: Final = 128  # workers that are hired at once for inputs in memory, of which no one has to wait for the next


class _Run(Protocol):
    """Interface of the pool's run."""

    def all_left(self) -> None:
        """End the batch, since its last slot has ended."""


class WorkerPool:
    """Slots of one batch run, filled as items come.

    Args:
        parts: The run's parts.
        source: Where items come from.
        retries: Where items wait for another attempt, if any may have one.
        cache: Outputs of inputs that were run before, if they are cached.
        begin: Begins one attempt.
        cancellation: How items end other than by themselves.
        context: What each task's context is a copy of.
        run: Notified when the last slot has ended.

    Attributes:
        vacant: Slots without a worker; below zero, so many slots have to end, since the limit was lowered.
        starting: Workers whose task has not begun.
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

    def hire(self) -> None:
        """Add workers as far as slots are vacant: one for each input of a short batch, else double their number."""
        if self._admission.closed:
            return
        batch, worker = self._batch, self._worker
        slots = batch.slots
        most = worker.most_left
        if slots and not most:
            return
        step = _AT_ONCE if worker.knows_length else 1
        if not slots:
            most = max(1, most)  # the first one ends a batch without inputs, too
        for _ in range(min(self.vacant, max(step, len(slots)), most)):
            self.vacant -= 1
            self.starting += 1
            slot = Slot()
            slot.place = len(slots)
            slots.append(slot)
            slot.task = ItemTask(
                worker.run(slot, HIRED), loop=self._loop, name=batch.name, context=self._context.copy()
            )

    def leave(self, slot: Slot) -> None:
        """End a slot: it has no further item, and none is left that another worker will not take."""
        slots = self._batch.slots
        last = slots.pop()
        if last is not slot:  # the last slot takes its place: a search among 10,000 slots costs more than their items
            place = slot.place
            if place >= len(slots) or slots[place] is not slot:
                place = slots.index(slot)
            slots[place], last.place = last, place
        slot.task = None
        if not slots:
            self._run.all_left()
        elif (ledger := self._batch.ledger) is not None and ledger.full and self._batch.completed:
            ledger.slot_vacated(self._clock())

    def replace(self) -> None:
        """Give the place of a slot whose item was abandoned to a new worker."""
        if self._cancellation.stopped is None:
            self.vacant += 1
            self.hire()
        if not self._batch.slots:
            self._run.all_left()

    def resize(self, more: int) -> None:
        """Change the number of slots; where there are too many, those end whose items do.

        Args:
            more: By how many; may be negative.
        """
        self.vacant += more
        if self.vacant > 0 and self._batch.slots and not self.starting:
            self.hire()

    def close(self) -> None:
        """Let go of the worker and, with it, of the inputs."""
        del self._worker, self._run
