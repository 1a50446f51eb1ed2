"""Cancellation: every way in which an item ends other than by its own attempt.

Here are time limits, drain, stop, fail-fast, and abandonment of what does not end. Inputs that are never started are
in `unstarted`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Protocol

from flowrt.engine.caching import BatchCache
from flowrt.engine.hedging import Hedging
from flowrt.engine.item_task import clear_cancellation, make_task, retrieve_exception
from flowrt.engine.outcome import (
    Finisher,
    cancel,
    mark_not_kept,
    set_timed_out,
    settle,
    settle_exception,
    without_engine_frames,
)
from flowrt.engine.parts import RunParts
from flowrt.engine.retry_queue import RetryQueue
from flowrt.engine.source import EMPTY, Source
from flowrt.engine.timeouts import GRACE_S
from flowrt.errors import ExecutorFailedError, JournalError
from flowrt.model import ItemRecord, Slot
from flowrt.model.result import ItemFailedError

__all__ = ["Cancellation"]

_LEFT_RUNNING: Final = f"it did not stop within {GRACE_S:g} s of being cancelled and was left running"
_STRAY: Final = (
    "its task was cancelled by code other than flowrt, such as a library's late task.cancel() or a timeout that "
    "never calls uncancel()"
)


class SlotKeeper(Protocol):
    """Interface of the run. Bound methods of it, instead, would be more objects for each batch."""

    def replace_slot(self) -> None:
        """Add a worker in place of a slot whose item was abandoned."""

    def leave_slot(self, slot: Slot) -> None:
        """End a slot."""


class Cancellation:
    """Ends the items of one batch run that do not end by themselves.

    Args:
        parts: The run's parts.
        source: Where the run pulls from.
        retries: Where items wait for another attempt, if any may have one.
        cache: Outputs of inputs that were run before, if they are cached.
        hedging: The second attempts beside stragglers, if there are any.
        context: The context that tasks of the run inherit.
        slots: The run, which replaces and ends slots.

    Attributes:
        stopped: Why the batch was stopped, or None.
        drained: Why the batch admits nothing more although it was not stopped, or None.
        failure: What `join` raises, or None.
        source_error: What the source raised, or None.
        cancels_rest: True if inputs that were never started get a `cancelled` result each.
        paced: True if a consumer sets the pace.
        finish: Finishes an item whose status is final.
    """

    def __init__(
        self,
        parts: RunParts,
        source: Source,
        retries: RetryQueue | None,
        cache: BatchCache | None,
        hedging: Hedging | None,
        context: Context,
        slots: SlotKeeper,
    ) -> None:
        self.stopped: str | None = None
        self.drained: str | None = None
        self.failure: BaseException | None = None
        self.source_error: BaseException | None = None
        self.cancels_rest = False
        self._batch = parts.batch
        self._loop = parts.loop
        self._clock = parts.clock
        self._admission = parts.admission
        self._pause = parts.pause
        self._journal = parts.journal
        self.paced = parts.paced
        self._item_timeout_s = parts.item_timeout_s
        self._abandon_attempt = parts.abandon_attempt
        self._source = source
        self._hedging = hedging
        self._context = context
        self._slots = slots
        self._timers: tuple[asyncio.TimerHandle, ...] = ()
        item_ended = None if retries is None else retries.item_ended
        not_ok = self._fail_fast if parts.fail_fast else None
        finish: Callable[[ItemRecord], None] = Finisher(
            parts.batch, parts.dispatch, parts.deliver, item_ended, not_ok
        ).finish
        self.finish = finish if cache is None else _then(cache.item_ended, finish)

    # -- the whole batch -----------------------------------------------------------------------------------------------

    def drain(self, reason: str) -> None:
        """Admit nothing more; attempts in flight go on to their end.

        Items that wait for a rate limit, a circuit or another attempt are cancelled, and so is the rest of a list or
        of another input of known length.

        Args:
            reason: For the error of the items that are not started.
        """
        if self.stopped is not None or self.drained is not None or self.all_started:
            return
        waiting = self._waiting()
        self.cancels_rest = not self._admission.closed  # else the source is exhausted, or has raised
        self.drained = reason
        self._close_admission()
        self._pause.end()
        for task in waiting:
            if task is not None:
                task.cancel()

    @property
    def all_started(self) -> bool:
        """True if all that is left is in flight."""
        source = self._source
        all_pulled = self._admission.closed or (self._batch.pulled >= source.known and not source.left)
        return all_pulled and not self._waiting()

    def _waiting(self) -> list[asyncio.Task[Any] | None]:
        """Tasks of the items that wait for a policy."""
        current = asyncio.current_task(self._loop)
        return [
            slot.task
            for slot in self._batch.slots
            if slot.item is not None and not slot.item.started_ns and not slot.keeping and slot.task is not current
        ]

    def stop(self, reason: str, *, cancels_rest: bool = False) -> None:
        """Admit nothing more and cancel what is in flight; abandon what has not ended after the grace period.

        Args:
            reason: For the error of the items that are cut short.
            cancels_rest: Give inputs that were never started a result. Off where no consumer is left to take it.
        """
        if self.stopped is None and cancels_rest:
            self.cancels_rest = True
        elif not cancels_rest and self.paced:  # the consumer is gone; an unpaced batch cancels the rest without waiting
            self.cancels_rest = False
        if self.stopped is not None:
            return
        self.stopped = reason
        self._close_admission()
        self._pause.end()
        if self._hedging is not None:
            self._hedging.stop()
        current = asyncio.current_task(self._loop)
        for slot in self._batch.slots:
            # a worker without an item finds admission closed; one whose item waits for the journal has ended it
            if slot.item is not None and not slot.keeping and slot.task is not None and slot.task is not current:
                slot.task.cancel()
        self._abandon_later()

    def fail(self, exc: BaseException, reason: str) -> None:
        """Stop the batch and have `join` raise, unless something failed before.

        Args:
            exc: What `join` is to raise.
            reason: The cause, to follow "because".
        """
        if self.failure is None:
            self.failure = exc
        self.stop(f"the batch was stopped because {reason}")

    def source_failed(self, exc: BaseException) -> None:
        """End the input: what was admitted finishes, then `join` raises the source's own error."""
        self.source_error = exc
        if self.failure is None:
            # its traceback begins with frames of the engine, which hold the whole batch
            self.failure = exc.with_traceback(without_engine_frames(exc.__traceback__))
        self._close_admission()
        if not isinstance(exc, (Exception, asyncio.CancelledError)):
            self.stop(f"the source raised {type(exc).__name__}")

    def executor_failed(self, item: ItemRecord, exc: ExecutorFailedError) -> None:
        """Stop the batch, whose executor can run nothing more; its items are cancelled, and run when it is resumed."""
        cancel(item, str(exc))
        self.fail(exc, "its executor failed")

    def _fail_fast(self, item: ItemRecord) -> None:
        """Stop at an item that did not end ok; one that draining does not start has not failed."""
        state = item.status
        if self.stopped is not None or (state == "cancelled" and self.drained is not None):
            return
        own = item.exception if state == "failed" else None
        if isinstance(own, asyncio.CancelledError):  # raised to the caller, it would look like the caller's own
            own = None
        self.fail(ItemFailedError(item) if own is None else own, f"item {item.index} {state.replace('_', ' ')}")

    def _close_admission(self) -> None:
        self._admission.close()
        self._source.stop()
        batch = self._batch
        if batch.ledger is not None:
            now = self._clock()
            batch.ledger.input_exhausted(now, now, batch.pulled - batch.completed, ended=batch.completed > 0)

    # -- one item ------------------------------------------------------------------------------------------------------

    def interrupted(self, item: ItemRecord, slot: Slot) -> None:
        """Record the outcome of an attempt that ended in CancelledError, by whose cancellation it was."""
        if slot.cancelled_ns:
            return  # by its time limit: `timed_out` records that
        task = slot.task
        if self.stopped is not None:
            cancel(item, self.stopped)
        elif self.drained is not None and not item.started_ns:
            cancel(item, f"not {'tried again' if item.attempts else 'started'}: {self.drained}")
        elif task is not None and task.cancelling():
            cancel(item, _STRAY)
            item.exception = asyncio.CancelledError(_STRAY)
        else:
            settle_exception(item, asyncio.CancelledError("the node raised CancelledError itself"))
        clear_cancellation()  # the task may have more to do: the journal, the slot's next item

    def timed_out(self, item: ItemRecord, slot: Slot) -> None:
        """Record that an item's attempt, which has ended by now, ran out of time."""
        slot.cancelled_ns = 0
        clear_cancellation()
        set_timed_out(item, self._item_timeout_s)

    def expire(self, slot: Slot) -> None:
        """Cancel an attempt that is over its time limit."""
        if self._hedging is not None and slot.item is not None and not self._hedging.expire(slot.item):
            return
        slot.cancelled_ns = self._clock()
        if slot.task is not None:
            slot.task.cancel()

    def abandon(self, slot: Slot) -> None:
        """Finish an item that did not end when it was cancelled, and give its slot to a new worker."""
        slot.abandoned = True
        item, task = slot.item, slot.task
        self._batch.slots.remove(slot)
        if task is not None:
            task.add_done_callback(retrieve_exception)
        self._abandon_attempt()
        if item is not None:
            self._finish_abandoned(item, slot)
        self._slots.replace_slot()

    def abandon_task(self, task: asyncio.Task[Any]) -> None:
        """Abandon the item that runs in a task."""
        for slot in self._batch.slots:
            if slot.task is task:
                self.abandon(slot)
                break

    def _finish_abandoned(self, item: ItemRecord, slot: Slot) -> None:
        won = None if self._hedging is None else self._hedging.give_up(item)
        item = item.clone()  # its task may still write to the original
        item.uncancellable = True
        if slot.keeping:
            if slot.task is not None:
                slot.task.cancel()
            mark_not_kept(item, f"it finished, but its journal did not answer within {GRACE_S:g} s; it may run again")
        else:
            if won is not None:
                settle(item, won)
            elif slot.cancelled_ns:
                set_timed_out(item, self._item_timeout_s)
            else:
                cancel(item, self.stopped or "the batch was stopped")
            if item.status != "ok":
                item.error = f"{item.error}; {_LEFT_RUNNING}"
            item.finished_ns = self._clock()
        if self._journal is not None and self._journal.wants(item):
            self._finish_when_kept(item)
        else:
            self.finish(item)

    def _abandon_all(self) -> None:
        for slot in list(self._batch.slots):
            self.abandon(slot)
        if self._batch.slots:  # abandoned items that are being journaled
            self._abandon_later()

    def _abandon_later(self) -> None:
        self._timers = (*self._timers, self._loop.call_later(GRACE_S, self._abandon_all))

    # -- the journal ---------------------------------------------------------------------------------------------------

    async def keep(self, item: ItemRecord, slot: Slot) -> bool:
        """Have the journal keep a finished item; what it cannot keep has not finished, and a later run repeats it.

        Cancellation does not interrupt the write; it ends the wait only if the slot was abandoned.

        Returns:
            False if the slot was abandoned meanwhile, and the item has been finished already.
        """
        if self._journal is None:
            return True
        slot.item = item
        slot.keeping = True
        kept = self._journal.append(item)
        while True:
            try:
                error = await kept
                break
            except asyncio.CancelledError:
                if slot.abandoned:
                    raise
                clear_cancellation()
                kept = self._journal.successor(kept)
        if slot.abandoned:
            return False
        slot.keeping = False
        slot.item = None
        if error is not None:
            mark_not_kept(item, f"it finished, but its result could not be kept: {error}", error)
            self.fail(error, f"its journal failed: {error}")
        return True

    def _finish_when_kept(self, item: ItemRecord) -> None:
        """Finish an abandoned item in a slot of its own, once the journal has it."""
        slot = Slot()
        slot.item = item
        slot.keeping = True  # from the start: a task that is cancelled before its first step never has one
        self._batch.slots.append(slot)

        async def finish() -> None:
            if await self.keep(item, slot):
                self.finish(item)
                self._slots.leave_slot(slot)

        slot.task = make_task(self._loop, finish(), name=self._batch.name, context=self._context.copy())

    def finish_restored(self, item: ItemRecord) -> bool:
        """Finish an item as an earlier run did, if the journal has it.

        Returns:
            False if the item has to run.
        """
        if self._journal is None or item.index > self._journal.last_index:
            return False
        attempts = 0
        try:
            if (before := self._journal.restore(item)) is None:
                return False
            attempts = before.attempts
            item.restore(before)
            self._batch.restored += 1
        except JournalError as exc:
            cancel(item, f"not started: {exc}")
            self.fail(exc, f"its journal cannot be used: {exc}")
        item.finished_ns = self._clock()
        self.finish(item)  # with no attempt, as there was none in this run
        item.attempts = attempts
        return True

    @property
    def reason(self) -> str:
        """Why items are not started, or not tried again."""
        return self.stopped or self.drained or "the batch was stopped"

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Cancel the timers and let go of the inputs and of the run."""
        for timer in self._timers:
            timer.cancel()
        self._source = EMPTY
        self._hedging = None
        del self.finish, self._slots


def _then(first: Callable[[ItemRecord], None], second: Callable[[ItemRecord], None]) -> Callable[[ItemRecord], None]:
    def both(item: ItemRecord) -> None:
        first(item)
        second(item)

    return both
