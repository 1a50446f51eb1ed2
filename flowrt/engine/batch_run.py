"""A batch's life but for its items' way: its workers come and go, and every way out ends with nothing left running."""

from __future__ import annotations

import asyncio
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from types import FrameType
from typing import Any, Final

from flowrt._util.clock import Clock
from flowrt._util.weak_registry import WeakRegistry
from flowrt.engine.admission import Admission
from flowrt.engine.durability import JournalSink
from flowrt.engine.hedging import Hedging
from flowrt.engine.instrument import Dispatch
from flowrt.engine.source import Source, is_own
from flowrt.engine.timeouts import GRACE_S, ItemTimeouts
from flowrt.errors import JournalError
from flowrt.eventloop.gc_tuning import GcThreshold
from flowrt.model import BatchRecord, Slot

__all__ = ["Lifecycle", "active_batches", "look_at"]

_YOUNG_EACH: Final = 20  # objects of one item in flight, and then some
_YOUNG_MOST: Final = 50_000

_active: Final[WeakRegistry[Lifecycle]] = WeakRegistry()
_around: Final[ContextVar[weakref.ref[Lifecycle] | None]] = ContextVar("flowrt_batch", default=None)


def active_batches(loop: asyncio.AbstractEventLoop) -> list[Lifecycle]:
    """The batches under way on a loop."""
    return [life for life in _active if life.loop is loop and not life.over]


class Lifecycle(ABC):
    """Starts a batch, staffs its slots, and brings it to its end; what its workers do is its subclass's.

    Args:
        batch: The batch's record.
        source: Where inputs come from.
        admission: Holds workers back.
        dispatch: The instruments' hooks.
        clock: Monotonic nanoseconds.
        keeper: Has finished items journaled, where there is a journal.
        hedging: What begins attempts, where stragglers get a second one.
        item_timeout_s: Time limit of one attempt.
        batch_timeout_s: Time limit of the whole batch.
        close: Called once, when the last worker has ended.
        save: Awaited once, after the batch's end and before whoever joins it goes on; it raises nothing.

    Attributes:
        failure: What `join` will raise.
        interrupted_by: The cancellation of whoever waited for the batch.
        over: Nothing of it is left.
    """

    def __init__(
        self,
        *,
        batch: BatchRecord,
        source: Source,
        admission: Admission,
        dispatch: Dispatch,
        clock: Clock,
        keeper: JournalSink | None,
        hedging: Hedging | None,
        item_timeout_s: float | None,
        batch_timeout_s: float | None,
        close: Callable[[], None],
        save: Callable[[], Coroutine[Any, Any, None]] | None,
    ) -> None:
        self.batch = batch
        self.admission = admission
        self.loop = asyncio.get_running_loop()
        self.failure: BaseException | None = None
        self.interrupted_by: asyncio.CancelledError | None = None
        self.over = False
        self._source = source
        self._dispatch = dispatch
        self._clock = clock
        self._keeper = keeper
        self._hedging = hedging
        self._item_timeout_s = item_timeout_s
        self._batch_timeout_s = batch_timeout_s
        self._close = close
        self._save = save

        self._workers: dict[asyncio.Task[None], Slot] = {}
        self._frames: dict[asyncio.Task[Any], FrameType] = {}  # of those workers in which an attempt has raised
        self._vacant = batch.limit
        self._starting = 0  # workers that were hired and have not come to work yet
        self._stopped: str | None = None  # why, once the batch has been told to stop
        self._drained: str | None = None  # why, once it has been told to admit nothing more
        self._skip_rest = False
        self._closing: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._concluded = False
        self._journal_closing = False
        self._deadlines: ItemTimeouts | None = None
        self._calm: GcThreshold | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._outer = _find_outer()
        self._context: Context = copy_context()
        self._context.run(_around.set, weakref.ref(self))
        self._turn_ns = 0  # when the loop last had its turn

    @property
    def within_another(self) -> bool:
        """Whether it is part of an item of a batch that is under way: what is cut short of it is missing there."""
        outer = None if self._outer is None else self._outer()
        return outer is not None and not outer.over

    # -- what the subclass says ----------------------------------------------------------------------------------------

    @abstractmethod
    async def _work(self, slot: Slot) -> None:
        """Serve a slot until there is nothing more to do."""

    @abstractmethod
    def _expire(self, slot: Slot) -> None:
        """The item in the slot is over its time limit."""

    @abstractmethod
    def _abandon(self, slot: Slot) -> None:
        """The item did not end when it was told to: finish it here and give its slot to a new worker."""

    @abstractmethod
    def _cancel_waiting(self) -> None:
        """Items that waited for another attempt end as cancelled."""

    @abstractmethod
    def _cancel_unpulled(self) -> None:
        """Inputs that came while the batch ended, and that nobody will ask for again, end as cancelled."""

    @abstractmethod
    async def _cancel_rest(self) -> None:
        """Inputs that are all there and were never started end as cancelled, at the pace of whoever takes them."""

    def _let_go(self) -> None:
        """Keep no input and no item, nor a cycle in which they would wait for the garbage collector."""
        self.batch.latest = None
        self._frames.clear()
        self._source = Source(())
        self._deadlines = None

    # -- workers -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Set the batch going: its first worker pulls the first item, and workers are hired as items come."""
        batch = self.batch
        if self._keeper is not None:
            self._keeper.start()
        batch.started_ns = self._turn_ns = self._clock()
        if batch.ledger is not None:
            batch.ledger.open(batch.started_ns)
        _active.add(self)
        self._calm = GcThreshold(_young(batch.limit))
        self._context.run(self._dispatch.notify, "batch_started", batch)
        if self._item_timeout_s is not None:
            self._deadlines = ItemTimeouts(
                self.loop, self._clock, batch.slots, self._item_timeout_s, self._expire, self._abandon
            )
        if self._batch_timeout_s is not None:
            self._timers.append(self.loop.call_later(self._batch_timeout_s, self._batch_timed_out))
        self._hire()

    def _hire(self) -> None:
        """Double the staff, as far as there are slots: a short batch at a high limit makes few workers."""
        if self.admission.closed:
            return
        for _ in range(min(self._vacant, max(1, len(self._workers)))):
            self._vacant -= 1
            slot = Slot()
            self.batch.slots.append(slot)
            self._staff(slot)

    def _staff(self, slot: Slot) -> None:
        """Give the slot a worker with a clean context."""
        work = self._work(slot)
        # not by the loop's task factory: an eager one would have it at work before it is counted among the workers
        task = asyncio.Task(work, loop=self.loop, name=self.batch.name, context=self._context.copy())
        slot.task = task
        self._workers[task] = slot
        self._starting += 1
        task.add_done_callback(self._worker_ended)
        if self._stopped is not None:
            task.cancel()

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        slot = self._workers.pop(task)
        if (frame := self._frames.pop(task, None)) is not None:
            frame.clear()
        if slot.task is task:
            self.batch.slots.remove(slot)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error, "the engine failed")
        if not self._workers:
            self._wind_up()
        elif self.batch.ledger is not None and self.batch.completed:
            self.batch.ledger.slot_vacated(self._clock())

    def set_limit(self, limit: int) -> None:
        """Change the concurrency limit from now on; a lower one holds as the items in flight end.

        Args:
            limit: At least 1.
        """
        more = limit - self.batch.limit
        if not more:
            return
        self.batch.limit = limit
        self._vacant += more
        self.admission.resize(limit)
        if self._calm is not None:
            self._calm.resize(_young(limit))
        self._context.copy().run(self._dispatch.notify, "limit_changed", self.batch)
        if self._vacant > 0 and self._workers and not self._starting:
            self._hire()

    # -- ways to its end -----------------------------------------------------------------------------------------------

    def _run_dry(self) -> None:
        """No more inputs, since the latest one was pulled."""
        batch = self.batch
        if batch.ledger is not None:
            left, ended = batch.pulled - batch.completed, batch.completed > 0
            batch.ledger.input_exhausted(self._clock(), batch.latest_ns, left, ended=ended)

    def _stop_short(self) -> None:
        """There may be more inputs, and none is wanted any more."""
        batch = self.batch
        if batch.ledger is not None:
            now = self._clock()
            batch.ledger.input_exhausted(now, now, batch.pulled - batch.completed, ended=batch.completed > 0)

    def _source_failed(self, exc: BaseException) -> None:
        """No more inputs: what was admitted finishes, then join() raises the source's own error."""
        if not is_own(exc):
            raise exc
        if self.failure is None:
            own = exc.__traceback__  # which begins with the frame of our caller, and that holds the whole batch
            self.failure = exc.with_traceback(None if own is None else own.tb_next)
        self.admission.close()
        self._stop_short()
        if not isinstance(exc, (Exception, asyncio.CancelledError)):
            self.stop(f"the source raised {type(exc).__name__}")

    def _fail(self, exc: BaseException, reason: str) -> None:
        if self.failure is None:
            self.failure = exc
        self.stop(f"the batch was stopped because {reason}")

    def _batch_timed_out(self) -> None:
        self._skip_rest = self._stopped is None
        self.stop(f"the batch took longer than batch_timeout={self._batch_timeout_s:g} s")

    def drain(self, reason: str) -> None:
        """Admit nothing more; attempts in flight go on to their end.

        Items that wait for a rate limit or a circuit are cancelled, and so is the rest of a list or the like.
        """
        if self._stopped is not None or self._drained is not None:
            return
        current = asyncio.current_task(self.loop)
        waiting = {  # for the source, or for what lets their attempts begin
            task: slot.item
            for task, slot in self._workers.items()
            if task is not current and not slot.keeping and (slot.item is None or not slot.item.started_ns)
        }
        if self.admission.closed and not any(waiting.values()):
            return  # all that is left is in flight
        self._skip_rest = not self.admission.closed  # else the source is at its end, or has raised
        self._drained = reason
        self.admission.close()
        self._stop_short()
        for task in waiting:
            task.cancel()

    def stop(self, reason: str) -> None:
        """Admit nothing more and cancel what is in flight; whoever joins the batch sees it end.

        Args:
            reason: For the error of the items that are cut short.
        """
        if self._concluded:
            return
        if self._stopped is not None or self._closing is not None:
            self._skip_rest = False  # whoever wanted the rest is gone
            if self._closing is not None:
                self._closing.cancel()
            return
        self._stopped = reason
        self.admission.close()
        self._stop_short()
        if self._hedging is not None:
            self._hedging.stop()
        current = asyncio.current_task(self.loop)
        for task, slot in self._workers.items():
            if task is not current and not slot.keeping:  # whose item has ended
                task.cancel()
        self._timers.append(self.loop.call_later(GRACE_S, self._abandon_all))

    def _abandon_all(self) -> None:
        for slot in list(self._workers.values()):
            self._abandon(slot)
        if self._workers:  # they have what was given up journaled
            self._timers.append(self.loop.call_later(GRACE_S, self._abandon_all))

    # -- its end -------------------------------------------------------------------------------------------------------

    def _wind_up(self) -> None:
        """The last worker has ended."""
        if self._closing is not None or self._journal_closing:
            return
        source = self._source
        self._context.copy().run(self._cancel_waiting)
        rest = self._skip_rest and self.batch.expected is not None and not source.awaits
        if not rest and (source.dry or not source.awaits):
            self._close_journal()
            return
        work = self._cancel_rest() if rest else asyncio.wait_for(source.aclose(), GRACE_S)
        self._closing = self.loop.create_task(work, context=self._context.copy())
        self._closing.add_done_callback(look_at)
        self._closing.add_done_callback(lambda _: self._cancel_unpulled(), context=self._context.copy())
        self._closing.add_done_callback(lambda _: self._close_journal())

    def _close_journal(self) -> None:
        """Nothing will finish any more."""
        if self._keeper is None:
            self._conclude()
            return
        self._journal_closing = True
        self._keeper.close(self._journal_closed)

    def _journal_closed(self, error: JournalError | None) -> None:
        if self.failure is None:
            self.failure = error
        self._conclude()

    def _conclude(self) -> None:
        if self._concluded:
            return
        self._concluded = True
        if self._deadlines is not None:
            self._deadlines.cancel()
        for timer in self._timers:
            timer.cancel()
        if self._calm is not None:
            self._calm.end()
        self._close()
        batch = self.batch
        batch.finished_ns = self._clock()
        if batch.ledger is not None:
            batch.ledger.close(batch.finished_ns)
        ok = batch.counts["ok"] + batch.counts["resumed"]
        if self.interrupted_by is not None or self._drained is not None:
            batch.status = "cancelled"
        else:
            batch.status = "ok" if self.failure is None and ok == batch.completed else "failed"
        self._context.run(self._dispatch.notify, "batch_ended", batch)
        self._let_go()
        if self._save is None:
            self._set_over()
        else:
            self._saving = self.loop.create_task(self._save(), context=self._context.copy())
            self._saving.add_done_callback(look_at)
            self._saving.add_done_callback(lambda _: self._set_over())

    def _set_over(self) -> None:
        self.over = True
        _active.discard(self)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def join(self) -> None:
        """Wait until the batch is over.

        Raises:
            BaseException: What ended the batch early: the failed item's own exception, the source's, or the
                CancelledError of the caller, after everything in flight was cancelled and awaited.
        """
        while not self.over:
            await self.changed()
        cut = self.interrupted_by
        error = self.failure if cut is None else asyncio.CancelledError(*cut.args)
        self.failure = None
        if error is not None:
            try:
                raise error
            finally:
                del error, self  # or the error would hold on to itself and to all results by its traceback

    async def changed(self, waiter: asyncio.Future[None] | None = None) -> None:
        """Wait until the batch is over or `waiter` is done; a cancelled caller cancels the batch and waits on."""
        if waiter is None:
            waiter = self.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError as exc:
            if self.interrupted_by is None:
                self.interrupted_by = exc.with_traceback(None)
            self.stop("the batch was cancelled")
        finally:
            self._waiters.remove(waiter)


def _find_outer() -> weakref.ref[Lifecycle] | None:
    """The batch that runs the item whose attempt has got here; a source that a worker pulls from is no item's."""
    outer = _around.get()
    batch = None if outer is None else outer()
    task = asyncio.current_task()
    slot = None if batch is None or task is None else batch._workers.get(task)  # noqa: SLF001  # of its own class
    return None if slot is not None and slot.item is None else outer


def _young(limit: int) -> int:
    """How many new objects the garbage collector is to wait for, with so many items in flight."""
    return min(_YOUNG_MOST, _YOUNG_EACH * limit)


def look_at(task: asyncio.Task[Any]) -> None:
    """Take a task's exception, so that it is not reported as never retrieved."""
    if not task.cancelled():
        task.exception()
