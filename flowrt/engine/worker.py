"""The worker: takes items through a batch, one at a time in each slot.

Read `Worker.run` first: it is the whole way of an item, from the source to the result. Three modules complete it:
`worker_pool` starts workers in vacant slots, `cancellation` ends items early, `batch_run` starts and ends the batch.
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
from flowrt.engine.item_task import EAGER, NEW_SLOT, SCHEDULED, ItemTask, clear_cancellation
from flowrt.engine.outcome import PLAIN, cancel_retry, settle_raised, settle_value
from flowrt.engine.parts import RunParts
from flowrt.engine.policy_pipeline import PolicyPipeline
from flowrt.engine.retry_queue import Requeued, RetryQueue
from flowrt.engine.source import END, LATER, Source
from flowrt.engine.turn import LONGEST_NS, Turn
from flowrt.errors import ExecutorFailedError, JournalError
from flowrt.model import ItemRecord, Slot, make_record
from flowrt.policies.retry import Retry

__all__ = ["SlotPool", "Worker"]

# Python 3.12 introduced eager tasks; before 3.12.5, get_coro() of an eager task that has ended crashes.
_CAN_START_EAGERLY: Final = sys.version_info >= (3, 12, 5)

_NO_TYPES: Final[frozenset[type]] = frozenset()
_NO_STAGES: Final = (None,) * 5
_SLOW_NS: Final = 1_000_000  # a longer pull from an iterator is charged to the input in the ledger


class SlotPool(Protocol):
    """Interface of the slot pool.

    Attributes:
        vacant: Number of slots without a worker; negative after the limit was lowered: so many slots must end.
        starting: Number of workers whose task has not begun.
    """

    vacant: int
    starting: int

    def fill(self) -> None:
        """Start workers in vacant slots."""

    def end_slot(self, slot: Slot) -> None:
        """Remove a slot that has no further item."""


class Worker:
    """Runs the items of one batch, each in one of its slots.

    Args:
        parts: The run's parts.
        source: Source of the items.
        retries: Queue of the items that wait for another attempt; None without retries and cache.
        cache: Cached outputs of earlier inputs; None without a cache.
        begin: Begins one attempt.
        cancellation: Ends items early.
        pool: The slots.
        context: Context of the batch; each item's task runs in a copy.
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
        self._delaying = parts.policies if parts.policies is not None and parts.policies.holds_back else None
        self._ledger = batch.ledger if source.computes else None  # a pull from memory takes no time worth charging
        stages = (self._ledger, retries, parts.policies, cache, parts.journal)
        # the locals of `run`: unpacking one tuple for each item is cheaper than reading as many attributes
        self._locals = (
            batch,
            admission,
            pool,
            source.pull,
            begin,
            PLAIN if parts.settle is settle_value else _NO_TYPES,  # types whose values need no `settle`
            parts.settle,
            finish,
            clock,
            parts.dispatch,
            not source.sets_variables and stages == _NO_STAGES,  # nothing but the node is to run
        )
        self._turn = Turn(parts.loop, parts.clock)

    async def run(self, slot: Slot, start: int) -> None:
        """Take one item from the source to its result, then start the slot's next item in a task of its own.

        Admission → source → policies → attempt → outcome → retry queue, or journal → instruments → result.

        Below, `break` ends the slot; `return` leaves the slot to another task; `continue` takes another item in this
        task. With shared tasks the loop takes all items of the slot.

        Args:
            slot: The slot of the item; `slot.task` is this task.
            start: How this task was started: `NEW_SLOT`, `SCHEDULED` or `EAGER`.
        """
        batch, admission, pool, pull, begin, plain, settle, finish, clock, dispatch, fast_path = self._locals
        raised = False  # True once an attempt has raised: the exception's traceback holds this frame
        if start:
            if start == NEW_SLOT:
                pool.starting -= 1
            else:  # an eager task runs before its constructor has returned it
                slot.task = asyncio.current_task(self._loop)
        try:
            while admission.free or await admission.wait():
                if admission.limited:
                    admission.free -= 1
                if pool.vacant < 0:  # the limit was lowered
                    pool.vacant += 1
                    admission.release()
                    break
                asked_ns = 0 if fast_path or self._ledger is None else clock()
                try:
                    if (data := pull()) is LATER and (data := await self._wait_for_input()) is LATER:
                        admission.release()  # the batch was paused meanwhile: wait for a permit again
                        continue
                except BaseException as exc:  # the iterator's; raised again by join()
                    self._cancellation.source_failed(exc)
                    break
                if data is END:
                    if not admission.closed:
                        self._input_ended()
                    break
                if fast_path:
                    item = make_record(batch, batch.pulled, data, clock())
                    batch.pulled += 1
                    if (notify_started := dispatch.notify_started) is not None:
                        try:
                            notify_started(item)
                        except Exception:  # telemetry must not change a result
                            dispatch.disable(notify_started)
                elif (admitted := self._admit(data, asked_ns)) is not None:
                    item = admitted
                else:  # many in a row, such as restored items, must let the loop turn, too
                    if self._turn.is_over(clock()):
                        await self._turn.end()
                    continue
                if pool.vacant > 0 and not pool.starting:
                    pool.fill()  # this worker has found an input, so there may be one for another worker
                if not fast_path and self._cache is not None and not item.attempts and await self._cache.answer(item):
                    if not await self._finish_cached(item, slot):
                        return
                    continue

                batch.latest = slot.item = item
                try:
                    if fast_path:
                        item.started_ns = item.pulled_ns
                    else:
                        if (delaying := self._delaying) is None:
                            item.started_ns = item.started_ns or item.pulled_ns
                        elif not delaying.enter(item):
                            await delaying.wait(item)
                        if self._cache is not None and item.started_ns == item.pulled_ns:
                            item.started_ns = clock()  # the lookup in the cache is no service time
                    outcome = await begin(item)
                    if type(outcome) in plain:  # as `settle_value`, without a call
                        item.status = "ok"
                        item.output = outcome
                    else:
                        settle(item, outcome)
                except Exception as exc:
                    outcome = exc
                    raised = True
                    settle_raised(item, exc, slot)
                    if isinstance(exc, ExecutorFailedError):
                        self._cancellation.executor_failed(item, exc)
                except asyncio.CancelledError:  # the engine's, other code's or the node's own: it ends this item alone
                    self._cancellation.interrupted(item, slot)
                    outcome = item.exception
                except BaseException as exc:  # KeyboardInterrupt, SystemExit: raised again by join()
                    outcome = exc
                    raised = True
                    settle_raised(item, exc, slot)
                    self._cancellation.fail(exc, f"the node raised {type(exc).__name__}")
                if slot.abandoned:  # after the grace: a copy of the item was finished, and the slot replaced
                    return
                slot.item = None
                if slot.cancelled_ns:  # even if the node has caught the cancellation and returned
                    self._cancellation.timed_out(item, slot)

                item.finished_ns = now = clock()
                if fast_path:
                    finish(item)
                elif (
                    (policies := self._policies) is not None
                    and (item.status != "ok" or policies.learns)
                    and (retry := self._ask_for_retry(policies, item, outcome)) is not None
                ):
                    self._requeue(item, retry)
                else:
                    journal = self._journal
                    if journal is not None and journal.wants(item) and not await self._cancellation.write(item, slot):
                        return
                    finish(item)

                if self._task_per_item:
                    if admission.closed or (batch.pulled + pool.starting >= self._known and self._vacate_slot()):
                        break  # no further item needs this slot
                    if slot.starter is not None:  # this eager task has not waited: `_start_items` starts the next, too
                        slot.starter = None
                    elif _CAN_START_EAGERLY and (batch.latest is not item or now - item.started_ns < LONGEST_NS):
                        self._start_items(slot, now)  # not after an item that alone blocked the loop for a whole turn
                    else:
                        # in this task's last step, so that no turn of the loop is lost; in a fresh context, so that no
                        # variable that the node has set reaches the next item
                        slot.task = ItemTask(
                            self.run(slot, SCHEDULED), loop=self._loop, name=batch.name, context=self._context.copy()
                        )
                    return
                outcome = None  # a shared task must not keep it until the next item ends
                if slot.task is not None and slot.task.cancelling():  # by a timeout that never called uncancel()
                    clear_cancellation()
                if now - self._turn.started_ns > LONGEST_NS and batch.latest is item:
                    await self._turn.end()
        except GeneratorExit:  # the loop was closed with the batch still active
            raise
        except BaseException as exc:  # a fault of the engine, or of an executor, a policy or a journal of the user's
            self._cancellation.fail(exc, "the engine failed")
        if raised:  # let this frame end first, which the exception holds, and which holds the batch
            self._loop.call_soon(pool.end_slot, slot)
        else:
            pool.end_slot(slot)

    def _start_items(self, slot: Slot, now: int) -> None:
        """Run the slot's next items in eager tasks, one after another, until one waits for something.

        An eager task runs inside its constructor until it first waits, which spares the item a turn of the loop. An
        item that has ended by then clears `slot.starter`, and the next one starts here. An item that waits starts the
        next one itself when it ends. After `LONGEST_NS` of items that never wait, the next one is scheduled instead,
        so that the loop's other work has its turn.

        Args:
            slot: The slot; its task is in the last step.
            now: The time by the batch's clock.
        """
        make_task: Callable[..., asyncio.Task[None]] = ItemTask
        loop, batch, name, context, turn = self._loop, self._batch, self._batch.name, self._context, self._turn
        starter = slot.task
        while True:
            slot.starter = starter
            make_task(self.run(slot, EAGER), loop=loop, name=name, context=context.copy(), eager_start=True)
            if slot.starter is not None:  # the item waits, or it was the slot's last
                slot.starter = None
                return
            if not turn.timed:
                turn.begin(now)
            if batch.latest.finished_ns - turn.started_ns > LONGEST_NS:  # type: ignore[union-attr]  # it has just ended
                slot.task = ItemTask(self.run(slot, SCHEDULED), loop=loop, name=name, context=context.copy())
                return

    async def _wait_for_input(self) -> Any:
        """Wait until the source has an input.

        Returns:
            The input; END if the source is exhausted or admission was closed; LATER if the batch was paused.
        """
        source, admission = self._source, self._admission
        data: Any = LATER
        while data is LATER:
            await source.wait()
            if admission.closed:  # by a stop or a drain, which also cancels the inputs that have arrived
                return END
            if admission.paused:
                return LATER
            data = source.pull()
        return data

    def _admit(self, data: Any, asked_ns: int) -> ItemRecord | None:
        """Return the record of the item that was pulled, which is new or comes from the retry queue.

        Args:
            data: The input, or a `Requeued`.
            asked_ns: When the worker began to pull, if a ledger is kept.

        Returns:
            The record; None if the item does not run now: an earlier run has finished it, or an equal input is running.
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
            if self._delaying is None:
                item.started_ns = now
            return item
        # no attempt yet: the item is new, or was parked while an equal input ran
        if cache is not None and cache.parks(item):
            self._admission.release()
            return None
        self._dispatch.notify("item_started", item)
        return None if self._journal is not None and self._cancellation.finish_restored(item) else item

    async def _finish_cached(self, item: ItemRecord, slot: Slot) -> bool:
        """Finish an item whose output came from the cache; returns False if the slot was abandoned meanwhile."""
        item.finished_ns = self._clock()
        if self._journal is not None and not await self._cancellation.write(item, slot):
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
        """Upper bound of the number of inputs that are not pulled."""
        return max(self._known - self._batch.pulled, 0) or self._source.left

    def _vacate_slot(self) -> bool:
        """Vacate a slot once all inputs of known number are pulled; returns False if a list has grown by one more."""
        if self._pool.starting:  # that worker pulls an input, and fills this slot again if a list has grown
            self._pool.vacant += 1
        elif self._source.left:
            return False
        else:
            self._input_ended()
        return True

    def _input_ended(self) -> None:
        """Close admission at the end of the inputs. An input shorter than the journal's is the batch's failure."""
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
        """Let the policies learn from an attempt that has ended, and return the retry that they grant, or None."""
        cancellation = self._cancellation
        ending = cancellation.stopped or cancellation.drained
        retry = policies.leave(item, item.exception if item.status == "timed_out" else outcome, ending=bool(ending))
        if retry is None or ending is None:
            return retry
        cancel_retry(item, ending)
        return None

    def _requeue(self, item: ItemRecord, retry: Retry) -> None:
        """Queue an item for another attempt, and release its permit: other items use the slot meanwhile."""
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
