"""Life cycle of a batch: start, drain, stop, join. No task outlives it."""

from __future__ import annotations

import asyncio
import weakref
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

from flowrt.attribution.ledger import INPUT
from flowrt.attribution.wait import Wait
from flowrt.engine.caching import BatchCache
from flowrt.engine.cancellation import Cancellation
from flowrt.engine.hedging import Hedging
from flowrt.engine.interruption import Interruption
from flowrt.engine.item_task import ACTIVE_RUNS, make_task, retrieve_exception
from flowrt.engine.parts import RunParts, UnstartedBlock
from flowrt.engine.retry_queue import RetryQueue
from flowrt.engine.source import EMPTY, Source
from flowrt.engine.timeouts import GRACE_S, ItemTimeouts
from flowrt.engine.unstarted import UnstartedInputs, cut_off_error, time_is_over
from flowrt.engine.worker_pool import WorkerPool
from flowrt.errors import JournalError
from flowrt.model import Slot

__all__ = ["BatchRun", "active_batches", "enclosing_run"]

_MOST_PARKED: Final = 1_000  # most items that wait for an equal input, where no retry policy sets the bound

_enclosing: Final[ContextVar[weakref.ref[BatchRun] | None]] = ContextVar("flowrt_batch", default=None)
"""Weak reference to the run whose item the current code belongs to, or None."""


def active_batches(loop: asyncio.AbstractEventLoop) -> list[BatchRun]:
    """Return the batch runs that are active on a loop."""
    return [run for run in ACTIVE_RUNS if run.loop is loop and not run.over]


def enclosing_run() -> BatchRun | None:
    """Return the active run whose item the current code belongs to, or None."""
    ref = _enclosing.get()
    run = None if ref is None else ref()
    return None if run is None or run.over else run


class BatchRun:
    """One run of a batch.

    Args:
        parts: The run's parts.

    Attributes:
        batch: The batch's record.
        loop: The loop on which the batch runs.
        admission: Permits for items.
        interrupted_by: The CancelledError of the caller that waited for the batch, or None.
        interruption: The signal that drained the batch and is raised in its caller as `Interrupted`, or None.
        ends_quietly: True if a stream that is drained before its input has ended raises no error.
        over: True once the batch has ended and its parts are released.
        source_failed: True if `join` has raised the source's exception.
        unstarted: Inputs that were cancelled in bulk without having been started, or None.
        owner: Owner of the run, such as the processor's active runs.
        observed: True if any telemetry observes the batch.
    """

    def __init__(self, parts: RunParts) -> None:
        self.batch = parts.batch
        self.loop = parts.loop
        self.admission = parts.admission
        self.interrupted_by: asyncio.CancelledError | None = None
        self.interruption: Interruption | None = None
        self.ends_quietly = False
        self.over = False
        self.source_failed = False
        self.unstarted: UnstartedBlock | None = None
        self.owner = parts.owner
        self.observed = parts.observed
        self._parts = parts  # not copied into attributes: an instance with more than 30 gets a dict of its own
        self._clock = parts.clock
        self._dispatch = parts.dispatch
        self._enclosing = _enclosing.get()
        self._context: Context = copy_context()
        batch = self.batch
        source = parts.source
        retries: RetryQueue | None = None
        attempts = None if parts.policies is None else parts.policies.retries
        if attempts is not None or parts.cache is not None:
            bound = max(_MOST_PARKED, batch.limit) if attempts is None else attempts.waiting
            source = retries = RetryQueue(source, batch, bound, self.loop, self._clock, parts.pause)
        cache: BatchCache | None = None
        if parts.cache is not None and retries is not None:
            cache = BatchCache(batch, parts.cache, retries, parts.dispatch)
        self._source = source
        self._retries = retries
        begin = parts.attempt
        self._hedging: Hedging | None = None
        if parts.hedge is not None:
            self._hedging = Hedging(parts, parts.hedge, self._abandon_task)
            begin = self._hedging.begin
        self._cancellation = Cancellation(parts, source, retries, cache, self._hedging, self._context, self)
        self._pool = WorkerPool(parts, source, retries, cache, begin, self._cancellation, self._context, self)
        self._timeouts: ItemTimeouts | None = None
        if parts.item_timeout_s is not None:
            expire, abandon = self._cancellation.expire, self._cancellation.abandon
            self._timeouts = ItemTimeouts(self.loop, self._clock, batch.slots, parts.item_timeout_s, expire, abandon)
        self._batch_timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[Any] | None = None
        self._saving: asyncio.Task[Any] | None = None
        self._journal_closing = False
        self._concluded = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def nested(self) -> bool:
        """True if the run belongs to an item of another active batch, which would be incomplete if this run stopped."""
        outer = None if self._enclosing is None else self._enclosing()
        return outer is not None and not outer.over

    # -- start and changes ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the batch: its first worker pulls the first item, and the pool adds workers as inputs arrive."""
        batch, parts = self.batch, self._parts
        if parts.journal is not None:
            parts.journal.start()
        batch.started_ns = self._clock()
        if batch.ledger is not None:
            batch.ledger.open(batch.started_ns)
        ACTIVE_RUNS.add(self)
        if self._dispatch.takes("batch_started"):
            self._context.run(self._dispatch.notify, "batch_started", batch)
        if self._source.sets_variables:  # the source runs user code
            wait = None if batch.ledger is None else Wait(batch.ledger, INPUT, self._clock, self.loop)
            self._source.start(self._context.copy(), wait)  # before `_enclosing` is set: a source belongs to no item
        self._context.run(_enclosing.set, weakref.ref(self))
        if self._timeouts is not None:
            self._timeouts.start()
        if (limit_s := parts.batch_timeout_s) is not None:
            self._batch_timer = self.loop.call_later(limit_s, self._timed_out, limit_s)
        self._pool.fill()

    def set_limit(self, limit: int) -> None:
        """Change the concurrency limit. A lower limit takes effect as the items in flight end.

        Args:
            limit: The new limit, at least 1.
        """
        more = limit - self.batch.limit
        if not more or self._concluded:
            return
        self.batch.limit = limit
        self.admission.resize(limit)
        self._context.copy().run(self._dispatch.notify, "limit_changed", self.batch)
        self._pool.resize(more)

    def pause(self) -> None:
        """Admit no item until `resume`. Attempts in flight continue, and so does the batch's time limit.

        A pause has no effect if every item that is left is in flight, or if the batch is drained or stopped.
        """
        cancellation = self._cancellation
        if not (self._concluded or cancellation.stopped or cancellation.drained or cancellation.all_started):
            self._parts.pause.begin()

    def resume(self) -> None:
        """Admit items again, after `pause`."""
        if not self._concluded:
            self._parts.pause.end()

    # -- drain and stop ------------------------------------------------------------------------------------------------

    def drain(self, reason: str, interruption: Interruption | None = None, *, quietly: bool = False) -> None:
        """Admit no further item and let the attempts in flight end.

        Args:
            reason: The cause, for the error of each cancelled item.
            interruption: The signal, which `raise_if_interrupted` raises in the caller at the end.
            quietly: Let a stream end without an error, even before its input has ended.
        """
        if not self.over:
            self.interruption = interruption or self.interruption
            self.ends_quietly = quietly or self.ends_quietly
        if not self._concluded:
            self._cancellation.drain(reason)

    def stop(self, reason: str, *, cancels_rest: bool = False) -> None:
        """Admit no further item and cancel the items in flight; `join` returns when they have ended.

        Args:
            reason: The cause, for the error of each cancelled item.
            cancels_rest: Give each input that was never started a result. False if no consumer is left to take it.
        """
        if self._concluded:
            return
        if self._closing is None:
            self._cancellation.stop(reason, cancels_rest=cancels_rest)
        elif not cancels_rest and self._cancellation.cancels_rest and self._cancellation.paced:
            self._closing.cancel()  # it delivers results to a consumer that has left meanwhile

    def _timed_out(self, limit_s: float) -> None:
        self.stop(time_is_over(limit_s), cancels_rest=True)

    # -- slots: `Cancellation` and `Hedging` are made before the pool and call it through the run ----------------------

    def _abandon_task(self, task: asyncio.Task[Any]) -> None:
        self._cancellation.abandon_task(task)

    def replace_slot(self) -> None:
        """Start a worker in place of a slot whose item was abandoned."""
        self._pool.replace_slot()

    def end_slot(self, slot: Slot) -> None:
        """Remove a slot that has no further item."""
        self._pool.end_slot(slot)

    # -- the end -------------------------------------------------------------------------------------------------------

    def slots_ended(self) -> None:
        """End the batch after its last slot has ended, even if winding up fails."""
        try:
            self._wind_up()
        except Exception as exc:  # a fault of the engine or of an executor, a policy or a journal
            if self._cancellation.failure is None:
                self._cancellation.failure = exc
            self._conclude()

    def _wind_up(self) -> None:
        """Cancel the items that never started, close the source and the journal, then conclude."""
        if self._closing is not None or self._journal_closing:
            return
        cancellation, source = self._cancellation, self._source
        if self._retries is not None:
            self._context.copy().run(self._unstarted().cancel_requeued)
            if cancellation.cut_off is not None and (error := self._retries.take_error()) is not None:
                cancellation.source_failed(error)
        rest = cancellation.cancels_rest and self.batch.expected is not None and not source.awaits
        if not rest and (source.exhausted or not source.awaits):
            self._close_journal()
            return
        cancellation.cancels_rest = rest
        work = self._unstarted().cancel_rest() if rest else _close_source(source)
        self._closing = make_task(self.loop, work, name=f"{self.batch.name} end", context=self._context.copy())
        self._closing.add_done_callback(self._closed)

    def _closed(self, closing: asyncio.Task[Any]) -> None:
        retrieve_exception(closing)
        self._context.copy().run(self._unstarted().cancel_arrived)
        self._close_journal()

    def _unstarted(self) -> UnstartedInputs:
        """Make the part that cancels unstarted inputs, which most runs never need."""
        return UnstartedInputs(self._parts, self._source, self._cancellation, self._keep_unstarted)

    def _keep_unstarted(self, block: UnstartedBlock) -> None:
        self.unstarted = block

    def _close_journal(self) -> None:
        journal = self._parts.journal
        if journal is None:
            self._conclude()
            return
        self._journal_closing = True
        journal.close(self._journal_closed)

    def _journal_closed(self, error: JournalError | None) -> None:
        if self._cancellation.failure is None:
            self._cancellation.failure = error
        self._conclude()

    def _conclude(self) -> None:
        """Complete the batch's record and notify the instruments, once no further item can finish."""
        if self._concluded:
            return
        self._concluded = True
        parts = self._parts
        parts.pause.end()  # where all that was left is in workers, which start it by themselves
        if self._timeouts is not None:
            self._timeouts.cancel()
        if self._batch_timer is not None:
            self._batch_timer.cancel()
        if self._hedging is not None:
            self._hedging.stop()
        cancellation, batch = self._cancellation, self.batch
        try:
            parts.close()
        except Exception as exc:  # an executor's or a policy's
            if cancellation.failure is None:
                cancellation.failure = exc
        batch.finished_ns = self._clock()
        if batch.ledger is not None:
            batch.ledger.close(batch.finished_ns)
        ok = batch.counts["ok"] + batch.counts["resumed"]
        if cancellation.cut_off is not None and cancellation.failure is None and not self._source.exhausted:
            batch.cut_off = cut_off_error(batch, cancellation.cut_off, parts.batch_timeout_s)
        is_ok = cancellation.failure is None and batch.cut_off is None and ok == batch.completed
        is_cancelled = self.interrupted_by is not None or cancellation.drained is not None
        batch.status = "cancelled" if is_cancelled else "ok" if is_ok else "failed"
        if self._dispatch.takes("batch_ended"):
            self._context.copy().run(self._dispatch.notify, "batch_ended", batch)
        self._release()
        if parts.save is None:
            self._set_over()
        else:
            self._saving = make_task(self.loop, parts.save(), name=f"{batch.name} save", context=self._context.copy())
            self._saving.add_done_callback(self._saved)

    def _release(self) -> None:
        """Release inputs and items, and break the reference cycles that only the garbage collector would free."""
        self.batch.latest = self.batch.workflow = None
        self._source = EMPTY
        self._retries = self._hedging = self._timeouts = None
        del self._parts
        self._dispatch.close()
        self._cancellation.close()
        self._pool.close()

    def _saved(self, saving: asyncio.Task[Any]) -> None:
        retrieve_exception(saving)
        self._set_over()

    def _set_over(self) -> None:
        self.over = True
        ACTIVE_RUNS.discard(self)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- join ----------------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Wait until the batch is over.

        Raises:
            BaseException: The cause of an early end, once every item in flight has ended: the failed item's own
                exception, the source's, or the CancelledError of the caller.
        """
        while not self.over:
            try:  # here and not in `changed`, which would be one more object of every batch within an item
                await self.waiter()
            except asyncio.CancelledError as exc:
                self.interrupt(exc)
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise the exception of `join`, if there is one. Call this method when the batch is over."""
        cut, cancellation = self.interrupted_by, self._cancellation
        if cut is None and cancellation.failure is None:
            return
        error = cancellation.failure if cut is None else asyncio.CancelledError(*cut.args)
        self.source_failed = error is not None and error is cancellation.source_error
        cancellation.failure = cancellation.source_error = None
        if error is not None:
            try:
                raise error
            finally:
                del error, self, cancellation  # in this frame they would keep the error and all results alive

    async def raise_if_interrupted(self, results: Any) -> None:
        """Raise `Interrupted` if a signal has drained the batch. Call this method when the batch is over.

        Args:
            results: The results that the exception carries.

        Raises:
            Interrupted: A signal has drained the batch.
        """
        if self.interruption is not None:
            await self.interruption.deliver(lambda: active_batches(self.loop), results)

    async def changed(self, waiter: asyncio.Future[None] | None = None) -> None:
        """Wait until the batch is over or `waiter` is done. A cancellation of the caller stops the batch."""
        if waiter is None:
            waiter = self.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError as exc:
            self.interrupt(exc)
        finally:
            self._waiters.remove(waiter)

    def waiter(self) -> asyncio.Future[None]:
        """Return a future to await instead of `changed`; pass a CancelledError of that wait to `interrupt`."""
        waiter = self.loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def interrupt(self, cancelled: asyncio.CancelledError) -> None:
        """Stop the batch because its caller was cancelled; `join` raises that CancelledError at the end."""
        if self.interrupted_by is None:
            self.interrupted_by = cancelled.with_traceback(None)
        self.stop("the batch was cancelled")

    def __repr__(self) -> str:
        return f"<BatchRun of {self.batch!r}, {len(self.batch.slots)} slots, {self.admission!r}>"


async def _close_source(source: Source) -> None:
    """Close a source, whose own code has the grace period to end."""
    await asyncio.wait_for(source.aclose(), GRACE_S)
