"""The worker: the way of one item through a batch.

Read `Worker.run` first: it is the whole way, from the source to the result. Slots are the bound on concurrency: each
runs one item at a time, and nothing is kept per item that outlives it. How slots are filled is in `worker_pool`, how
items end other than by themselves in `cancellation`, how a batch starts and ends in `batch_run`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Protocol

from flowrt.attribution.ledger import INPUT
from flowrt.engine.attempt import Begin
from flowrt.engine.caching import BatchCache
from flowrt.engine.cancellation import Cancellation
from flowrt.engine.item_task import EAGER, HIRED, SCHEDULED, ItemTask, clear_cancellation, clear_frames_later
from flowrt.engine.outcome import PLAIN, cancel_retry, settle_exception, settle_value
from flowrt.engine.parts import RunParts
from flowrt.engine.policy_pipeline import PolicyPipeline
from flowrt.engine.retry_queue import Requeued, RetryQueue
from flowrt.engine.source import END, LATER, Source
from flowrt.engine.turn import LONGEST_NS, Turn
from flowrt.errors import ExecutorFailedError, JournalError
from flowrt.model import ItemRecord, Slot, make_record
from flowrt.policies.retry import Retry

__all__ = ["SlotPool", "Worker"]

_CAN_START_EAGERLY: Final = sys.version_info >= (3, 12, 5)  # before, get_coro() of a task that then ended crashes

_NO_TYPES: Final[frozenset[type]] = frozenset()
_SLOW_NS: Final = 1_000_000  # an iterator that takes longer for its next item holds the batch up


class SlotPool(Protocol):
    """Interface of the slot pool.

    Attributes:
        vacant: Slots without a worker; below zero, so many slots have to end, since the limit was lowered.
        starting: Workers whose task has not begun.
    """

    vacant: int
    starting: int

    def hire(self) -> None:
        """Fill vacant slots with workers."""

    def leave(self, slot: Slot) -> None:
        """End a slot: it has no further item."""


class Worker:
    """Runs the items of one batch, each in one of its slots.

    Args:
        parts: The run's parts.
        source: Where items come from.
        retries: Where items wait for another attempt, if any may have one.
        begin: Begins one attempt.
        cache: Outputs of inputs that were run before, if they are cached.
        cancellation: How items end other than by themselves.
        pool: The slots.
        context: What each task's context is a copy of.
    """

    def __init__(
        self,
        parts: RunParts,
        source: Source,
        retries: RetryQueue | None,
        cache: BatchCache | None,
        begin: Begin,
        cancellation: Cancellation,
        pool: SlotPool,
        context: Context,
    ) -> None:
        self._batch = batch = parts.batch
        self._loop = parts.loop
        self._clock = clock = parts.clock
        self._admission = admission = parts.admission
        self._dispatch, self._journal = parts.dispatch, parts.journal
        self._task_per_item = parts.task_per_item
        self._source, self._retries = source, retries
        self._cancellation = cancellation
        self._finish = finish = cancellation.finish
        self._pool, self._context = pool, context
        self._known = source.known
        self._policies, self._cache = parts.policies, cache
        self._gate = parts.policies if parts.policies is not None and parts.policies.holds_back else None
        self._ledger = batch.ledger if source.computes else None  # else a pull takes no time
        optional = (self._ledger, retries, parts.policies, cache, parts.journal)
        # what `run` needs for each item: unpacking a tuple is cheaper than reading as many attributes
        self._always = (
            batch,
            admission,
            pool,
            source.pull,
            begin,
            PLAIN if parts.settle is settle_value else _NO_TYPES,  # types of outcomes that are outputs as they are
            parts.settle,
            finish,
            clock,
            parts.dispatch,
            source.sets_variables or any(part is not None for part in optional),  # items pass further stages
        )
        self._turn = Turn(parts.loop, parts.clock)

    async def run(self, slot: Slot, start: int) -> None:
        """Take one item from the source to its result, then start the slot's next item in a task of its own.

        Source → admission → attempt → journal → record finished → instruments → result. With shared tasks the slot's
        items follow each other in this one task.

        Args:
            slot: Where the item runs; `slot.task` is the current task.
            start: How the task starts: `HIRED`, `SCHEDULED` or `EAGER`.
        """
        batch, admission, pool, pull, begin, plain, settle, finish, clock, dispatch, staged = self._always
        raised = False
        if start:
            if start == HIRED:
                pool.starting -= 1
            else:
                slot.task = asyncio.current_task(self._loop)
        try:
            while admission.free or await admission.wait():
                if admission.limited:
                    admission.free -= 1
                if pool.vacant < 0:  # the limit was lowered
                    pool.vacant += 1
                    admission.release()
                    break
                asked_ns = clock() if staged and self._ledger is not None else 0
                try:
                    if (data := pull()) is LATER and (data := await self._wait_for_input()) is LATER:
                        admission.release()  # paused meanwhile: wait for admission anew
                        continue
                except BaseException as exc:  # raised again by join()
                    self._cancellation.source_failed(exc)
                    break
                if data is END:
                    if not admission.closed:
                        self._input_ended()
                    break
                if not staged:
                    item = make_record(batch, batch.pulled, data, clock())
                    batch.pulled += 1
                    if (notify_started := dispatch.notify_started) is not None:
                        try:
                            notify_started(item)
                        except Exception:  # telemetry must not change a result
                            dispatch.disable(notify_started)
                elif (admitted := self._admit(data, asked_ns)) is not None:
                    item = admitted
                else:
                    if self._turn.is_over(clock()):
                        await self._turn.end()
                    continue
                if pool.vacant > 0 and not pool.starting:
                    pool.hire()
                if staged and (cache := self._cache) is not None and not item.attempts and await cache.answer(item):
                    if not await self._finish_cached(item, slot):
                        return
                    continue

                batch.latest = slot.item = item
                try:
                    if not staged:
                        item.started_ns = item.pulled_ns
                    else:
                        if (gate := self._gate) is None:
                            item.started_ns = item.started_ns or item.pulled_ns
                        elif not gate.enter(item):
                            await gate.wait(item)
                        if self._cache is not None and item.started_ns is item.pulled_ns:  # it was asked in between
                            item.started_ns = clock()
                    outcome = await begin(item)
                    if type(outcome) in plain:  # what `settle_value` does, without a call
                        item.status = "ok"
                        item.output = outcome
                    else:
                        settle(item, outcome)
                except Exception as exc:
                    outcome = exc
                    raised = True
                    self._attempt_raised(item, exc, slot)
                    if isinstance(exc, ExecutorFailedError):
                        self._cancellation.executor_failed(item, exc)
                except asyncio.CancelledError:
                    self._cancellation.interrupted(item, slot)
                    outcome = item.exception
                except BaseException as exc:  # KeyboardInterrupt, SystemExit: raised again by join()
                    outcome = exc
                    raised = True
                    self._attempt_raised(item, exc, slot)
                    self._cancellation.fail(exc, f"the node raised {type(exc).__name__}")
                if slot.abandoned:  # the item was finished without this task, and the slot given to another worker
                    return
                slot.item = None
                if slot.cancelled_ns:
                    self._cancellation.timed_out(item, slot)

                item.finished_ns = now = clock()
                if not staged:
                    finish(item)
                elif (
                    (policies := self._policies) is not None
                    and (item.status != "ok" or policies.learns)
                    and (retry := self._ask_for_retry(policies, item, outcome)) is not None
                ):
                    self._requeue(item, retry)
                else:
                    journal = self._journal
                    if journal is not None and journal.wants(item) and not await self._cancellation.keep(item, slot):
                        return
                    finish(item)

                if self._task_per_item:
                    if admission.closed or (batch.pulled + pool.starting >= self._known and not self._needs_task()):
                        break
                    if slot.starter is not None:  # which starts the next item, too
                        slot.starter = None
                    elif _CAN_START_EAGERLY and (batch.latest is not item or now - item.started_ns < LONGEST_NS):
                        self._start_items(slot, now)
                    else:
                        # in the last step of this task, so that nothing is scheduled in between; in a fresh context,
                        # so that no variable that the node has set reaches the next item
                        slot.task = ItemTask(
                            self.run(slot, SCHEDULED), loop=self._loop, name=batch.name, context=self._context.copy()
                        )
                    return
                outcome = None
                if slot.task is not None and slot.task.cancelling():  # by a timeout that never called uncancel()
                    clear_cancellation()
                if now - self._turn.started_ns > LONGEST_NS and batch.latest is item:
                    await self._turn.end()
        except GeneratorExit:  # the loop was closed with the batch still active
            raise
        except BaseException as exc:  # a fault of the engine or of an executor, policy or journal of the user's
            self._cancellation.fail(exc, "the engine failed")
        if raised:  # before the batch can end, this frame is cleared, which the exception holds
            self._loop.call_soon(pool.leave, slot)
        else:
            pool.leave(slot)

    def _start_items(self, slot: Slot, now: int) -> None:
        """Run the slot's next items at once, each in a task of its own, until one waits for something.

        It spares each of them a turn of the loop. The loop still has its turn as often as with shared tasks.
        """
        make_task: Callable[..., asyncio.Task[None]] = ItemTask
        loop, name, context, clock = self._loop, self._batch.name, self._context, self._clock
        starter = slot.task
        while True:
            slot.starter = starter
            make_task(self.run(slot, EAGER), loop=loop, name=name, context=context.copy(), eager_start=True)
            if slot.starter is not None:  # the item waits and will start the next itself, or it was the slot's last
                slot.starter = None
                return
            if not self._turn.goes_on(now, clock()):
                slot.task = ItemTask(self.run(slot, SCHEDULED), loop=loop, name=name, context=context.copy())
                return

    async def _wait_for_input(self) -> Any:
        """Wait until the source has an input.

        Returns:
            The input; END at the end and once admission is closed; LATER if the batch was paused meanwhile.
        """
        source, admission = self._source, self._admission
        data: Any = LATER
        while data is LATER:
            await source.wait()
            if admission.closed:  # by a stop or a drain, which cancels what has become ready meanwhile
                return END
            if admission.paused:
                return LATER
            data = source.pull()
        return data

    def _admit(self, data: Any, asked_ns: int) -> ItemRecord | None:
        """Return the record of the item that was pulled, new or queued for another attempt.

        Returns:
            None if the item does not run here: an earlier run has finished it, or an equal input runs already.
        """
        batch, source, ledger, cache = self._batch, self._source, self._ledger, self._cache
        if source.sets_variables:
            for variable, value in source.variables:
                variable.set(value)
        if self._retries is not None and type(data) is Requeued:
            item = data.item
        else:
            item = make_record(batch, batch.pulled, data, self._clock())
            batch.pulled += 1
            if ledger is not None and item.pulled_ns - asked_ns > _SLOW_NS:
                ledger.blocked(INPUT, asked_ns, item.pulled_ns)
        if item.attempts:
            item.forget_outcome()
            batch.returned_ns = now = self._clock()
            if self._dispatch.active:
                self._dispatch.notify("attempt_started", item)
            if self._gate is None:
                item.started_ns = now
            return item
        # no attempt yet: the item is new, or waited for an equal input
        if cache is not None and cache.parks(item):
            self._admission.release()
            return None
        self._dispatch.notify("item_started", item)
        return None if self._journal is not None and self._cancellation.finish_restored(item) else item

    async def _finish_cached(self, item: ItemRecord, slot: Slot) -> bool:
        """Finish an item that has its output from the cache.

        Returns:
            False if the slot was abandoned meanwhile.
        """
        item.finished_ns = self._clock()
        if self._journal is not None and not await self._cancellation.keep(item, slot):
            return False
        self._finish(item)
        if self._turn.is_over(item.finished_ns):
            await self._turn.end()
        return True

    @property
    def knows_length(self) -> bool:
        """True if the inputs are in memory, so that their number is known."""
        return self._known < sys.maxsize

    @property
    def most_left(self) -> int:
        """Most inputs that no worker has taken or is about to take, as far as is known."""
        return max(self._known - self._batch.pulled, 0) or self._source.left

    def _needs_task(self) -> bool:
        """Return whether a task must look for another item, although all known inputs are pulled or about to be."""
        starting = self._pool.starting  # workers that will each take an input
        if self._source.left > starting:
            return True
        if starting:
            self._pool.vacant += 1  # in case one of those workers finds the limit lowered, or the list grown
        else:
            self._input_ended()
        return False

    def _attempt_raised(self, item: ItemRecord, exc: BaseException, slot: Slot) -> None:
        """Record what an attempt raised.

        The first frame in the exception's traceback that is not this task's may hold this task's as its caller, and
        that the whole batch: clear it once it has ended. Before Python 3.12, an awaited coroutine's has no caller.
        """
        own = exc.__traceback__
        called = None if own is None else own.tb_next
        if own is not None and called is not None and called.tb_frame.f_back is not None:
            clear_frames_later(own.tb_frame, slot.task, slot.starter)
        settle_exception(item, exc)

    def _input_ended(self) -> None:
        """Close admission: there are no more inputs. The input must not be shorter than the journal's was."""
        self._admission.close()
        batch, cancellation = self._batch, self._cancellation
        if batch.ledger is not None:
            ended = batch.completed > 0
            batch.ledger.input_exhausted(self._clock(), batch.latest_ns, batch.pulled - batch.completed, ended=ended)
        if self._journal is not None:
            try:
                self._journal.check_length(batch.pulled)
            except JournalError as exc:
                if cancellation.failure is None:
                    cancellation.failure = exc

    def _ask_for_retry(self, policies: PolicyPipeline, item: ItemRecord, outcome: Any) -> Retry | None:
        """Let the policies learn from an attempt that has ended; returns the retry that they grant, if any."""
        cancellation = self._cancellation
        ending = cancellation.stopped or cancellation.drained
        retry = policies.leave(item, item.exception if item.status == "timed_out" else outcome, ending=bool(ending))
        if retry is None or ending is None:
            return retry
        cancel_retry(item, ending)
        return None

    def _requeue(self, item: ItemRecord, retry: Retry) -> None:
        """Queue an item for another attempt; until then its slot and its permit go to others."""
        if self._retries is None:
            raise RuntimeError("a policy granted a retry and there is no retry queue")
        item.schedule_retry(retry)
        if self._dispatch.active:
            self._dispatch.notify("attempt_ended", item)
            self._dispatch.notify("retry_scheduled", item)
        item.status = "running"
        item.started_ns = 0
        self._retries.push(item, item.finished_ns + retry.delay_ns)
        self._admission.release()
