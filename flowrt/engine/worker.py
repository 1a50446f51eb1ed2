"""The scheduler: how an item travels through a batch.

Read `Scheduler._work` first: it is the whole way, from the source to the result. A fixed set of workers runs it, one
per slot, so the concurrency bound is structural and nothing is kept per item that outlives it. How workers are hired
and how a batch ends is in `lifecycle`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Final

from flowrt._util.clock import Clock
from flowrt.attribution.ledger import CONSUMER, INPUT
from flowrt.attribution.wait import Wait
from flowrt.engine.admission import Admission
from flowrt.engine.attempt import Begin, Settle, settle, settle_exception
from flowrt.engine.batch_run import Lifecycle, look_at
from flowrt.engine.durability import JournalSink
from flowrt.engine.hedging import Hedging
from flowrt.engine.instrument import Dispatch
from flowrt.engine.policy_pipeline import PolicyPipeline
from flowrt.engine.retry_queue import RetryQueue
from flowrt.engine.source import END, LATER, Source
from flowrt.engine.timeouts import GRACE_S
from flowrt.errors import JournalError
from flowrt.model import BatchRecord, BatchResult, ItemRecord, Slot
from flowrt.model.result import ItemFailedError
from flowrt.policies.retry import Retry

__all__ = ["Deliver", "Scheduler"]

Deliver = Callable[[BatchResult], None]
"""Takes a finished result; where admission has a limit, whoever consumes it calls `admission.release()` once."""

_LEFT_RUNNING: Final = f"it did not stop within {GRACE_S:g} s of being cancelled and was left running"
_TURN_NS: Final = 5_000_000  # a worker whose items never wait yields to the loop this often

_SLOW_NS: Final = 1_000_000  # an iterator that takes longer for its next item holds the batch up


class Scheduler(Lifecycle):
    """Runs one batch, once.

    Args:
        batch: The batch's record.
        source: Where inputs come from.
        begin: Begins one attempt.
        settle: Writes down what it gave.
        admission: Holds workers back.
        deliver: Takes the results.
        dispatch: The instruments' hooks.
        clock: Monotonic nanoseconds.
        guard: The policies around attempts, where there are any.
        keeper: Has finished items journaled, where there is a journal.
        hedging: What begins attempts, where stragglers get a second one.
        fail_fast: Stop at the first item that does not end ok.
        item_timeout_s: Time limit of one attempt.
        batch_timeout_s: Time limit of the whole batch.
        abandon_one: Told when an item did not end in time and its slot was given away.
        close: Called once, when the last worker has ended.
        save: Awaited once, after the batch's end and before whoever joins it goes on; it raises nothing.
    """

    def __init__(
        self,
        *,
        batch: BatchRecord,
        source: Source,
        begin: Begin,
        settle: Settle = settle,
        admission: Admission,
        deliver: Deliver,
        dispatch: Dispatch,
        clock: Clock,
        guard: PolicyPipeline | None = None,
        keeper: JournalSink | None = None,
        hedging: Hedging | None = None,
        fail_fast: bool = False,
        item_timeout_s: float | None = None,
        batch_timeout_s: float | None = None,
        abandon_one: Callable[[], None] = lambda: None,
        close: Callable[[], None] = lambda: None,
        save: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        again: RetryQueue | None = None
        if guard is not None and guard.retries is not None:
            again = RetryQueue(source, batch, guard.retries.waiting, asyncio.get_running_loop(), clock)
        super().__init__(
            batch=batch,
            source=again or source,
            admission=admission,
            dispatch=dispatch,
            clock=clock,
            keeper=keeper,
            hedging=hedging,
            item_timeout_s=item_timeout_s,
            batch_timeout_s=batch_timeout_s,
            close=close,
            save=save,
        )
        batch.prompt = guard is None and keeper is None
        if batch.ledger is not None:
            source.tell(Wait(batch.ledger, INPUT, clock, self.loop))
            admission.consumer = Wait(batch.ledger, CONSUMER, clock, self.loop)
        if hedging is not None:
            hedging.on_stuck = lambda worker: self._abandon(self._workers[worker])
        self._again = again
        self._guard = guard
        self._begin = begin
        self._settle = settle
        self._deliver = deliver
        self._fail_fast = fail_fast
        self._abandon_one = abandon_one
        self._turn_ending = False

    # -- the way of an item --------------------------------------------------------------------------------------------

    async def _work(self, slot: Slot) -> None:
        """Source → admission → attempt → journal → record finished → instruments → result, until the source is dry."""
        batch, source, admission, dispatch = self.batch, self._source, self.admission, self._dispatch
        begin, settle, clock, guard, keeper = self._begin, self._settle, self._clock, self._guard, self._keeper
        pull = source.pull
        ledger = batch.ledger if source.computes else None  # else a pull takes no time
        asked_ns = 0
        outcome: Any = None
        clean = copy_context()
        self._starting -= 1
        while admission.free or await admission.wait():
            admission.free -= 1
            if self._vacant < 0 and not self._is_needed():  # the limit was lowered: one slot fewer
                self._vacant += 1
                admission.release()
                return
            if ledger is not None:
                asked_ns = clock()
            try:
                if (data := pull()) is LATER:
                    data = await source.apull()
            except BaseException as exc:  # raised again by join()
                self._source_failed(exc)
                return
            if data is END:
                admission.close()
                self._run_dry()
                if keeper is not None:
                    self._check_length(keeper)
                return
            if type(data) is ItemRecord and data.batch is batch:  # it comes back for another attempt
                item = data
                self._start_again(item)
            else:
                item = ItemRecord(batch, batch.pulled, data, clock())
                batch.pulled += 1
                if ledger is not None and item.pulled_ns - asked_ns > _SLOW_NS:
                    ledger.blocked(INPUT, asked_ns, item.pulled_ns)
                if (notify_started := dispatch.notify_started) is not None:
                    notify_started(item)
                if keeper is not None and self._finished_before(keeper, item):
                    if item.finished_ns - self._turn_ns > _TURN_NS:
                        await self._yield_turn()
                    continue
            if self._vacant > 0 and not self._starting:
                self._hire()

            batch.latest = slot.item = item
            try:
                if guard is None:
                    item.started_ns = item.pulled_ns
                elif not guard.enter(item):
                    await guard.wait(item)
                outcome = await begin(item)
                settle(item, outcome)
            except Exception as exc:
                outcome = exc
                self._raised(item, exc, slot)
            except asyncio.CancelledError:
                self._interrupted(item, slot)
                outcome = item.exception
            except BaseException as exc:  # KeyboardInterrupt, SystemExit: raised again by join()
                outcome = exc
                self._raised(item, exc, slot)
                self._fail(exc, f"the node raised {type(exc).__name__}")
            if slot.abandoned:  # given up long ago: the item has been finished without us
                return
            slot.item = None
            if slot.cancelled_ns:
                self._timed_out(item, slot)

            item.finished_ns = now = clock()
            if guard is not None and (again := self._leave(guard, item, outcome)) is not None:
                self._come_back(item, again)
            else:
                if keeper is not None and keeper.wants(item) and not await self._is_kept(keeper, item, slot):
                    return
                self._finish(item)
            outcome = None

            try:
                changed = copy_context() != clean
            except Exception:  # values that cannot be compared are values that changed
                changed = True
            if changed:  # the node set a context variable, which the next item must not see
                self._staff(slot)
                return
            if now - self._turn_ns > _TURN_NS and batch.latest is item:
                await self._yield_turn()

    def _raised(self, item: ItemRecord, exc: BaseException, slot: Slot) -> None:
        """The attempt raised: the frames of its traceback hold on to this worker's, which holds the whole batch."""
        if slot.task is not None and exc.__traceback__ is not None and not self.over:
            self._frames[slot.task] = exc.__traceback__.tb_frame
        settle_exception(item, exc)

    def _finish(self, item: ItemRecord) -> None:
        """The item is at its end: tell the instruments, then hand over the result."""
        dispatch, state, deliver = self._dispatch, item.status, self._deliver
        self.batch.counts[state] += 1
        if dispatch.attempt_ended and item.started_ns and item.attempts:
            dispatch.notify("attempt_ended", item)
        if (
            (state != "ok" or item.attempts > 1)
            and dispatch.item_failed
            and (state == "failed" or state == "timed_out" or item.uncancellable)
        ):
            dispatch.notify("item_failed", item)
        if (notify_finished := dispatch.notify_finished) is not None:
            notify_finished(item)
        deliver(item)
        if self._again is not None:
            self._again.item_ended()
        if (
            self._fail_fast
            and (state != "ok" and state != "resumed" and self._stopped is None)
            and (state != "cancelled" or self._drained is None)  # what draining does not begin has not failed
        ):
            own = item.exception if state == "failed" else None
            self._fail(own or ItemFailedError(item), f"item {item.index} {state.replace('_', ' ')}")

    async def _is_kept(self, keeper: JournalSink, item: ItemRecord, slot: Slot) -> bool:
        """Let the journal have the item: what it could not keep has not finished, and a later run runs it again.

        Returns:
            False where the slot was given up meanwhile, and the item has been finished by somebody else.
        """
        slot.item = item
        slot.keeping = True
        error = await keeper.keep(item, slot, self._cancelled_while_keeping)
        if slot.abandoned:
            return False
        slot.keeping = False
        slot.item = None
        if error is not None:
            _unfinish(item, f"it finished, but its result could not be kept: {error}", error)
            self._fail(error, f"its journal failed: {error}")
        return True

    def _cancelled_while_keeping(self) -> None:
        if self._stopped is None and self._drained is None:
            self.stop("its task was cancelled from outside, as a closing event loop does")

    def _finished_before(self, keeper: JournalSink, item: ItemRecord) -> bool:
        """Whether the item is at its end already, as an earlier run finished it."""
        attempts = 0
        try:
            if (before := keeper.restore(item)) is None:
                return False
            attempts = before.attempts
            item.restore(before)
            self.batch.restored += 1
        except JournalError as exc:
            _cancel(item, f"not started: {exc}")
            self._fail(exc, f"its journal cannot be used: {exc}")
        item.finished_ns = self._clock()
        self._finish(item)  # which tells the instruments of no attempt, as there was none now
        item.attempts = attempts
        return True

    def _check_length(self, keeper: JournalSink) -> None:
        """The input is at its end: it must not be a shorter one than that of the run that the journal is of."""
        try:
            keeper.check_length(self.batch.pulled)
        except JournalError as exc:
            if self.failure is None:
                self.failure = exc

    def _leave(self, guard: PolicyPipeline, item: ItemRecord, outcome: Any) -> Retry | None:
        """The attempt is over: what the policies make of it.

        Where the policy grants another attempt that its batch does not begin any more, it has not failed.
        """
        retry = guard.leave(item, item.exception if item.status == "timed_out" else outcome)
        if retry is None or (reason := self._stopped or self._drained) is None:
            return retry
        _try_no_more(item, reason)
        return None

    def _come_back(self, item: ItemRecord, retry: Retry) -> None:
        """The item is to be tried again: its slot and its place go to others until then."""
        again = self._again
        if again is None:  # never: who decides on retries has it
            raise RuntimeError("an item is to come back and has nowhere to wait")
        item.retry = retry
        item.backoff_ns += retry.delay_ns
        item.first_started_ns = item.first_started_ns or item.started_ns
        self._dispatch.notify("attempt_ended", item)
        self._dispatch.notify("retry_scheduled", item)
        item.status = "running"
        item.started_ns = 0
        again.push(item, item.finished_ns + retry.delay_ns)
        self.admission.release()

    def _is_needed(self) -> bool:
        """Whether a slot too many has to stay, since nobody else would take up items when they are due."""
        batch, again = self.batch, self._again
        inflight = batch.pulled - batch.completed - batch.queued
        return again is not None and again.unattended and inflight < batch.limit

    def _start_again(self, item: ItemRecord) -> None:
        item.forget_outcome()
        self.batch.returned_ns = self._clock()
        self._dispatch.notify("attempt_started", item)

    async def _yield_turn(self) -> None:
        """Let the loop's other work run: no item has waited for anything for a while."""
        if not self._turn_ending:
            self._turn_ending = True
            self.loop.call_soon(self._next_turn)
        await asyncio.sleep(0)

    def _next_turn(self) -> None:
        self._turn_ending = False
        self._turn_ns = self._clock()

    # -- ways an attempt ends other than by itself ---------------------------------------------------------------------

    def _interrupted(self, item: ItemRecord, slot: Slot) -> None:
        """CancelledError came out of an attempt: find out whose it is."""
        task = asyncio.current_task()
        if slot.cancelled_ns:
            return  # its time was over: `_timed_out` settles it
        if self._stopped is not None:
            _cancel(item, self._stopped)
        elif self._drained is not None and not item.started_ns and task is not None:
            task.uncancel()
            _cancel(item, f"not {'tried again' if item.attempts else 'started'}: {self._drained}")
        elif task is not None and task.cancelling():
            self.stop("its task was cancelled from outside, as a closing event loop does")
            _cancel(item, "its task was cancelled from outside")
        else:
            settle_exception(item, asyncio.CancelledError("the node raised CancelledError itself"))

    def _timed_out(self, item: ItemRecord, slot: Slot) -> None:
        """The item ran out of time and has ended since, in whatever way."""
        slot.cancelled_ns = 0
        if slot.task is not None:
            slot.task.uncancel()
        self._set_timed_out(item)

    def _set_timed_out(self, item: ItemRecord) -> None:
        item.status = "timed_out"
        item.output = None
        item.error = f"the attempt took longer than item_timeout={self._item_timeout_s:g} s"
        item.error_type = "TimeoutError"
        item.exception = TimeoutError(item.error)

    def _expire(self, slot: Slot) -> None:
        """The item in the slot is over its time limit."""
        if self._hedging is not None and slot.item is not None and not self._hedging.expire(slot.item):
            return
        slot.cancelled_ns = self._clock()
        if slot.task is not None:
            slot.task.cancel()

    def _abandon(self, slot: Slot) -> None:
        """The item did not end when it was told to: finish it here and give its slot to a new worker."""
        slot.abandoned = True
        item, task = slot.item, slot.task
        self.batch.slots.remove(slot)
        if task is not None:
            del self._workers[task]
            task.remove_done_callback(self._worker_ended)
            task.add_done_callback(look_at)
        self._abandon_one()
        if item is not None:
            won = None if self._hedging is None else self._hedging.give_up(item)
            item = item.clone()  # what its worker writes some day is nobody's business any more
            item.uncancellable = True
            if slot.keeping and task is not None:
                task.cancel()
                _unfinish(item, f"it finished, but its journal did not answer within {GRACE_S:g} s; it may run again")
            elif won is not None:
                settle(item, won)
            elif slot.cancelled_ns:
                self._set_timed_out(item)
            else:
                _cancel(item, self._stopped or "the batch was stopped")
            if not slot.keeping:
                if item.status != "ok":
                    item.error = f"{item.error}; {_LEFT_RUNNING}"
                item.finished_ns = self._clock()
            if self._keeper is not None and self._keeper.wants(item):
                self._finish_when_kept(self._keeper, item)
            else:
                self._finish(item)
        if self._stopped is None:
            self._vacant += 1
            self._hire()
        if not self._workers:
            self._wind_up()

    def _finish_when_kept(self, keeper: JournalSink, item: ItemRecord) -> None:
        """Finish an item that was given up, in a task that the batch waits for like for a worker."""
        slot = Slot()
        slot.item = item
        slot.keeping = True  # from the start: a task that is cancelled before its first step never has one
        self.batch.slots.append(slot)

        async def finish() -> None:
            if await self._is_kept(keeper, item, slot):
                self._finish(item)

        task = slot.task = self.loop.create_task(finish(), context=self._context.copy())
        self._workers[task] = slot
        task.add_done_callback(self._worker_ended)

    def _let_go(self) -> None:
        super()._let_go()
        self._again = None
        if self._hedging is not None:
            self._hedging.on_stuck = lambda _: None

    # -- items that are not run ----------------------------------------------------------------------------------------

    def _cancel_waiting(self) -> None:
        """Items that waited for another attempt end as cancelled."""
        reason = self._stopped or self._drained or "the batch was stopped"
        for item in self._source.leftover():
            _try_no_more(item, reason)
            item.finished_ns = self._clock()
            self._finish(item)

    def _cancel_unpulled(self) -> None:
        """Inputs that came while the batch ended, and that nobody will ask for again, end as cancelled."""
        reason = self._stopped or self._drained or "the batch was stopped"
        for data in self._source.unpulled():
            self._cancel_input(data, reason)

    async def _cancel_rest(self) -> None:
        """Inputs that are all there and were never started end as cancelled, at the pace of whoever takes them."""
        reason = self._stopped or self._drained or "the batch was stopped"
        source = self._source
        try:
            while True:
                await self.admission.take_room()
                data = source.pull()
                if data is END or data is LATER:
                    return
                pulled_ns = self._cancel_input(data, reason)
                if pulled_ns - self._turn_ns > _TURN_NS:
                    await asyncio.sleep(0)
                    self._turn_ns = self._clock()
        except Exception as exc:  # the source failed
            self._source_failed(exc)

    def _cancel_input(self, data: Any, reason: str) -> int:
        """End an input that is not started, unless an earlier run finished it; gives the time."""
        batch = self.batch
        item = ItemRecord(batch, batch.pulled, data, self._clock())
        batch.pulled += 1
        if batch.prompt:  # else none is sure to start as it is pulled
            _cancel(item, f"not started: {reason}")
        self._dispatch.notify("item_started", item)
        if self._keeper is None or not self._finished_before(self._keeper, item):
            _cancel(item, f"not started: {reason}")
            item.finished_ns = item.pulled_ns
            self._finish(item)
        return item.pulled_ns

    def __repr__(self) -> str:
        return f"<Scheduler of {self.batch!r}, {len(self._workers)} workers, {self.admission!r}>"


def _cancel(item: ItemRecord, reason: str) -> None:
    item.status = "cancelled"
    item.error = reason
    item.error_type = "CancelledError"


def _try_no_more(item: ItemRecord, reason: str) -> None:
    _cancel(item, f"not tried again: {reason}; attempt {item.attempts} ended in {item.error_type}: {item.error}")


def _unfinish(item: ItemRecord, reason: str, error: BaseException | None = None) -> None:
    """Nobody is to see a result that a later run will not know of."""
    _cancel(item, reason)
    item.output = item._metadata = None  # noqa: SLF001  # a record is the engine's
    item.error_type = "JournalDiskError" if error is None else type(error).__name__
    item.exception = error
