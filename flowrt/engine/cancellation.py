"""Cancellation: everything that ends an item early, or that decides how an interrupted item ends.

That is time limits, drain, stop, fail-fast, and the abandonment of items that do not end within the grace period. To
cancel an item is to cancel its task; its worker then catches the CancelledError and calls `Cancellation.interrupted`.
Inputs that are never started are in `unstarted`.
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
    as_source_error,
    cancel,
    in_turn,
    mark_not_journaled,
    set_timed_out,
    settle,
    settle_exception,
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


class SlotOwner(Protocol):
    """Interface of the batch run. Passing two of its bound methods would make two more objects for each batch."""

    def replace_slot(self) -> None:
        """Start a worker in place of a slot whose item was abandoned."""

    def end_slot(self, slot: Slot) -> None:
        """Remove a slot that has no further item."""


class Cancellation:
    """Ends items of one batch run early.

    Args:
        parts: The run's parts.
        source: Source of the items.
        retries: Queue of the items that wait for another attempt; None without retries and cache.
        cache: Cached outputs of earlier inputs; None without a cache.
        hedging: Runs the hedges; None without hedging.
        context: Context of the batch; tasks that are made here run in a copy.
        slots: The run, which replaces and ends slots.

    Attributes:
        stopped: Why the batch was stopped, or None.
        drained: Why the batch was drained, or None.
        failure: The exception that `join` raises, or None.
        source_error: The exception that the source raised, or None.
        cut_off: Why the batch ended before its input did, or None.
        cancels_rest: True if each input that was never started gets a `cancelled` result.
        paced: True if results go to a consumer that sets the pace, as in a stream.
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
        slots: SlotOwner,
    ) -> None:
        self.stopped: str | None = None
        self.drained: str | None = None
        self.failure: BaseException | None = None
        self.source_error: BaseException | None = None
        self.cut_off: str | None = None
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
        self._unstarted: set[Slot] = set()  # those whose item was cancelled while its attempt waited for its start
        item_ended = None if retries is None else retries.item_ended
        finish: Callable[[ItemRecord], None] = Finisher(
            parts.batch, parts.dispatch, parts.deliver, item_ended, self._fail_fast if parts.fail_fast else None
        ).finish
        self.finish = finish if cache is None else in_turn(cache.item_ended, finish)

    # -- the whole batch -----------------------------------------------------------------------------------------------

    def drain(self, reason: str) -> None:
        """Admit no further item and let the attempts in flight end.

        Items that wait for a rate limit, for an open circuit or for another attempt are cancelled, and so are the
        inputs that are left if their number is known.

        Args:
            reason: The cause, for the error of each cancelled item.
        """
        if self.stopped is not None or self.drained is not None or self.all_started:
            return
        waiting = self._waiting()
        self.cancels_rest = not self._admission.closed  # closed: the source is exhausted, or has raised
        self.drained = reason
        self._close_admission(reason)
        self._pause.end()
        self._unstarted.update(waiting)
        for slot in waiting:
            if slot.task is not None:
                slot.task.cancel()

    @property
    def all_started(self) -> bool:
        """True if every item that is left is in flight."""
        source = self._source
        all_pulled = self._admission.closed or (self._batch.pulled >= source.known and not source.left)
        return all_pulled and not self._waiting()

    def _waiting(self) -> list[Slot]:
        """Return the slots whose item waits for a rate limit, an open circuit or its turn in a worker."""
        current = asyncio.current_task(self._loop)
        return [
            slot
            for slot in self._batch.slots
            if slot.item is not None and not slot.item.started_ns and not slot.journaling and slot.task is not current
        ]

    def stop(self, reason: str, *, cancels_rest: bool = False) -> None:
        """Admit no further item, cancel the items in flight, and abandon those that outlast the grace period.

        Args:
            reason: The cause, for the error of each cancelled item.
            cancels_rest: Give each input that was never started a result. False if no consumer is left to take it.
        """
        if self.stopped is None and cancels_rest:
            self.cancels_rest = True
        elif not cancels_rest and self.paced:  # the consumer has left, and nothing else would take the results
            self.cancels_rest = False
        if self.stopped is not None:
            return
        self.stopped = reason
        self._close_admission(reason if cancels_rest else None)
        self._pause.end()
        if self._hedging is not None:
            self._hedging.stop()
        self._unstarted.update(self._waiting())
        current = asyncio.current_task(self._loop)
        for slot in self._batch.slots:
            # idle workers end at the closed admission, and items that are being journaled have ended already
            if slot.item is not None and not slot.journaling and slot.task is not None and slot.task is not current:
                slot.task.cancel()
        self._abandon_later()

    def fail(self, exc: BaseException, reason: str) -> None:
        """Stop the batch, and have `join` raise an exception, unless it is to raise an earlier one.

        Args:
            exc: The exception.
            reason: The cause, as a clause that follows "because".
        """
        if self.failure is None:
            self.failure = exc
        self.stop(f"the batch was stopped because {reason}")

    def source_failed(self, exc: BaseException) -> None:
        """Admit no further item after the source has raised: items in flight finish, then `join` raises `exc`."""
        self.source_error = exc = as_source_error(exc)
        if self.failure is None:
            self.failure = exc
        self._close_admission()
        if not isinstance(exc, Exception):
            self.stop(f"the source raised {type(exc).__name__}")

    def executor_failed(self, item: ItemRecord, exc: ExecutorFailedError) -> None:
        """Stop the batch, as its executor cannot run attempts. Its items are cancelled: a resumed run repeats them."""
        cancel(item, str(exc))
        self.fail(exc, "its executor failed")

    def _fail_fast(self, item: ItemRecord) -> None:
        """Stop the batch at an item that did not end ok. Items that a drain or a stop has cancelled do not count."""
        state = item.status
        if self.stopped is not None or (state == "cancelled" and self.drained is not None):
            return
        own = item.exception if state == "failed" else None
        if isinstance(own, asyncio.CancelledError):  # it would read as a cancellation of the caller
            own = None
        self.fail(ItemFailedError(item) if own is None else own, f"item {item.index} {state.replace('_', ' ')}")

    def _close_admission(self, cut_off: str | None = None) -> None:
        if not (self._admission.closed or self._source.exhausted):
            self.cut_off = cut_off
        self._admission.close()
        self._source.stop()
        batch = self._batch
        if batch.ledger is not None:
            now = self._clock()
            batch.ledger.input_exhausted(now, now, batch.pulled - batch.completed, ended=batch.completed > 0)

    # -- one item ------------------------------------------------------------------------------------------------------

    def interrupted(self, item: ItemRecord, slot: Slot) -> None:
        """Record the outcome of an item whose task caught a CancelledError, according to the source of the error."""
        if slot.cancelled_ns:  # its time limit: the worker calls `timed_out` next
            return
        task = slot.task
        if slot in self._unstarted:
            # of an attempt in a worker's queue, which is counted, it is not known whether it has just started
            how = "not started: " if not item.attempts else "" if item.retry is None else "not tried again: "
            cancel(item, how + self.reason)
        elif self.stopped is not None:
            cancel(item, self.stopped)
        elif task is not None and task.cancelling():  # a request by other code; without one, the node raised the error
            cancel(item, _STRAY)
            item.exception = asyncio.CancelledError(_STRAY)
        else:
            settle_exception(item, asyncio.CancelledError("the node raised CancelledError itself"))
        clear_cancellation()  # the task goes on: it may write to the journal or run the slot's next item

    def timed_out(self, item: ItemRecord, slot: Slot) -> None:
        """Record that an attempt ran out of time, after it has ended."""
        slot.cancelled_ns = 0
        clear_cancellation()
        set_timed_out(item, self._item_timeout_s)

    def expire(self, slot: Slot) -> None:
        """Cancel the item in a slot that is over its time limit, unless one of its hedges has won."""
        if self._hedging is not None and slot.item is not None and not self._hedging.expire(slot.item):
            return
        slot.cancelled_ns = self._clock()
        if slot.task is not None:
            slot.task.cancel()

    def abandon(self, slot: Slot) -> None:
        """Finish a copy of an item that did not end within the grace period, and replace its slot.

        Its task is left running. When the task ends, its worker finds `slot.abandoned` set and does nothing more.
        """
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
        """Abandon the item whose task this is."""
        for slot in [slot for slot in self._batch.slots if slot.task is task]:
            self.abandon(slot)

    def _finish_abandoned(self, item: ItemRecord, slot: Slot) -> None:
        won = None if self._hedging is None else self._hedging.give_up(item)
        item = item.clone()  # the task may still write to the original
        item.uncancellable = True
        if slot.journaling:
            if slot.task is not None:
                slot.task.cancel()
            mark_not_journaled(
                item, f"it finished, but its journal did not answer within {GRACE_S:g} s; it may run again"
            )
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
            self._finish_when_journaled(item)
        else:
            self.finish(item)

    def _abandon_all(self) -> None:
        for slot in list(self._batch.slots):
            self.abandon(slot)
        if self._batch.slots:  # those of abandoned items on their way to the journal
            self._abandon_later()

    def _abandon_later(self) -> None:
        self._timers = (*self._timers, self._loop.call_later(GRACE_S, self._abandon_all))

    # -- the journal ---------------------------------------------------------------------------------------------------

    async def write(self, item: ItemRecord, slot: Slot) -> bool:
        """Write a finished item to the journal and wait until it is durable.

        If the write fails, the item is marked as not journaled, so that a later run repeats it, and the batch stops.
        Cancellation does not interrupt the write; it ends the wait only if the slot was abandoned.

        Returns:
            False if the slot was abandoned meanwhile, in which case the item is already finished.
        """
        if self._journal is None:
            return True
        slot.item = item
        slot.journaling = True
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
        slot.journaling = False
        slot.item = None
        if error is not None:
            mark_not_journaled(item, f"it finished, but its result could not be kept: {error}", error)
            self.fail(error, f"its journal failed: {error}")
        return True

    def _finish_when_journaled(self, item: ItemRecord) -> None:
        """Finish an abandoned item, in a slot of its own, once the journal has written it."""
        slot = Slot()
        slot.item = item
        slot.journaling = True  # set before the task's first step, which a `stop` would otherwise prevent
        self._batch.slots.append(slot)

        async def finish() -> None:
            if await self.write(item, slot):
                self.finish(item)
                self._slots.end_slot(slot)

        slot.task = make_task(self._loop, finish(), name=self._batch.name, context=self._context.copy())

    def finish_restored(self, item: ItemRecord) -> bool:
        """Finish an item with its result of an earlier run, if the journal has one.

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
        self.finish(item)  # with 0 attempts for the instruments, since this run makes none
        item.attempts = attempts
        return True

    @property
    def reason(self) -> str:
        """Why items are not started, or not tried again."""
        return self.stopped or self.drained or "the batch was stopped"

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Cancel the timers; release the inputs and the run."""
        for timer in self._timers:
            timer.cancel()
        self._source = EMPTY
        self._hedging = None
        self._unstarted.clear()
        del self.finish, self._slots
