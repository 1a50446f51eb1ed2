"""BatchProcessor: run one node over many items at once."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
import uuid
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from flowrt.engine.admission import Admission
from flowrt.engine.attempts import make_begin, make_direct, settle, settle_value
from flowrt.engine.clock import Clock, clock_of, is_virtual
from flowrt.engine.guard import Guard
from flowrt.engine.hedging import Hedging
from flowrt.engine.isolate import isolate
from flowrt.engine.keeping import Keeper, open_in_thread
from flowrt.engine.scheduler import Deliver, Scheduler
from flowrt.engine.source import check_inputs, make_source
from flowrt.engine.stream import ResultStream
from flowrt.executors import Executor, LoopExecutor, ThreadsExecutor, executor_of
from flowrt.executors.threads import blocking_call
from flowrt.instrument import Dispatch, Instrument
from flowrt.journal import Journal, JournalPolicy
from flowrt.ledger import Ledger
from flowrt.nodes.base import WorkflowContext, as_node
from flowrt.policies import (
    AdaptiveLimit,
    CircuitBreaker,
    Hedge,
    LimitChange,
    RateGate,
    RateLimit,
    RetryPolicy,
    Transition,
)
from flowrt.policies.checks import check_count
from flowrt.policies.gate import check_limits
from flowrt.policy import Telemetry, check_concurrency, check_duration, check_policy
from flowrt.progress import ProgressBar
from flowrt.records import BatchRecord, BatchResult, Rejected
from flowrt.report import BatchReport
from flowrt.sequential import places_to_sample, run_sequentially
from flowrt.speedup import SampledSpeedup
from flowrt.telemetry import Observer

if TYPE_CHECKING:
    from pathlib import Path

    from flowrt.telemetry.recorder import Recorder

__all__ = ["BatchProcessor", "BatchResults"]

Inputs = Iterable[Any] | AsyncIterable[Any]
_log = logging.getLogger("flowrt.batch")


class BatchResults(list[BatchResult]):
    """The results of a batch, in input order.

    Attributes:
        wall_time: How long the batch took, in seconds.
        name: The processor's name.
        batch: What is known of the batch, where they are one batch's.
    """

    def __init__(
        self,
        results: Iterable[BatchResult] = (),
        *,
        name: str = "batch",
        wall_time: float = 0.0,
        batch: BatchRecord | None = None,
    ) -> None:
        super().__init__(results)
        self.name = name
        self.batch = batch
        self.wall_time = wall_time

    @property
    def succeeded(self) -> list[BatchResult]:
        """The results that are successes."""
        return [result for result in self if result.success]

    @property
    def failed(self) -> list[BatchResult]:
        """The results that are not: failed, timed out or cancelled."""
        return [result for result in self if not result.success]

    @property
    def success_rate(self) -> float:
        """Share of successes, 0 to 1; 1 for a batch of nothing."""
        return sum(result.success for result in self) / len(self) if self else 1.0

    @property
    def report(self) -> BatchReport:
        """What failed and why it took so long: totals here, more by its `text()`, `html()` and `save(path)`."""
        return BatchReport.of(self, self.name, self.wall_time, self.batch, keep=True)


class BatchProcessor:
    """Runs a node over many items at once, with every item observed.

    Args:
        node: A BaseNode, or a function of one argument (async, or sync and then run in a worker thread).
        max_concurrency: How many items may run at once; an int of at least 1, or an `AdaptiveLimit` that finds it.
        continue_on_error: Whether a failed item leaves the others running.
        item_timeout: Time limit of one attempt, in seconds; the item ends `timed_out`, its siblings go on.
        batch_timeout: Time limit of the whole batch, in seconds; finished results are returned, the rest is
            `cancelled`.
        retry: Which failed attempts are tried again; None for none.
        rate_limit: How much may start within a time: a `RateLimit`, or several of which all hold.
        breaker: Leaves a service alone that fails too often.
        hedge: Gives an item that takes unusually long a second attempt beside its first.
        executor: Where attempts run: `"loop"` (the default), `"threads"`, or an executor.
        journal: A file that outlives the process: every finished item is on the disk before its result is handed
            over, and a later batch over the same inputs is given it back as `resumed`. A path, or a `JournalPolicy`
            for more than that; or an open `flowrt.journal.Journal`, for one batch, which you close.
        record: A file that the times of every attempt are recorded in, for `flowrt report` and `flowrt whatif`; a later
            batch of this processor replaces it. Needs the extra `parquet`.
        speedup_sample: Run so many items one after another before the batch, and so twice in all, to measure what the
            batch gains; for inputs that are a list or another sequence. By default nothing runs twice, and the
            measured speedup is told by how long items held each other up.
        name: The `batch` label of metrics, spans and logs; the node's id by default.
        telemetry: True for all the built-in instruments, False for none, or a `flowrt.Telemetry` to choose.
        instruments: Further instruments of your own.

    Raises:
        ValueError: A setting is out of its range.
        TypeError: The node is neither a BaseNode nor a function.

    Example:
        >>> import asyncio, flowrt
        >>> async def double(x):
        ...     return 2 * x
        >>> results = asyncio.run(flowrt.BatchProcessor(double, max_concurrency=3).batch([1, 2, 3]))
        >>> [result.output for result in results]
        [2, 4, 6]
    """

    def __init__(
        self,
        node: Any,
        max_concurrency: int | AdaptiveLimit = 10,
        continue_on_error: bool = True,
        *,
        item_timeout: float | None = None,
        batch_timeout: float | None = None,
        retry: RetryPolicy | None = None,
        rate_limit: RateLimit | Iterable[RateLimit] | None = None,
        breaker: CircuitBreaker | None = None,
        hedge: Hedge | None = None,
        executor: str | Executor | None = None,
        journal: str | os.PathLike[str] | JournalPolicy | Journal | None = None,
        record: str | os.PathLike[str] | None = None,
        speedup_sample: int | None = None,
        name: str | None = None,
        telemetry: bool | Telemetry = True,
        instruments: Iterable[Instrument] = (),
    ) -> None:
        self.node = as_node(node)
        self._controller = max_concurrency.begin() if isinstance(max_concurrency, AdaptiveLimit) else None
        self.max_concurrency = check_concurrency(
            max_concurrency.max if isinstance(max_concurrency, AdaptiveLimit) else max_concurrency
        )
        self.continue_on_error = continue_on_error
        self.item_timeout = check_duration("item_timeout", item_timeout)
        self.batch_timeout = check_duration("batch_timeout", batch_timeout)
        self.retry = check_policy("retry", retry, RetryPolicy)
        self.rate_limits = () if rate_limit is None else check_limits(rate_limit)
        self.breaker = check_policy("breaker", breaker, CircuitBreaker)
        self.journal = JournalPolicy.of(journal)
        self.hedge = check_policy("hedge", hedge, Hedge)
        self._running: weakref.WeakSet[Scheduler] = weakref.WeakSet()
        self.name = self.node.node_id if name is None else name
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name must be a non-empty string, not {name!r}")
        self.telemetry = Telemetry.of(telemetry)
        self._executor = executor_of(executor)
        if hedge is not None:
            self._check_that_attempts_can_be_cancelled()
        self._instruments = tuple(instruments)
        self.record = None if record is None else _check_recording_path(record)
        self.speedup_sample = None if speedup_sample is None else check_count("speedup_sample", speedup_sample)
        self._observer = Observer(self.telemetry, self.name, self.node.node_id, self.max_concurrency)
        Dispatch(self._instruments)  # a wrong instrument is told here, before any work

    async def batch(
        self,
        inputs: Inputs,
        workflow_context: WorkflowContext | None = None,
        *,
        continue_on_error: bool | None = None,
        progress: bool = False,
    ) -> BatchResults:
        """Run the node over all inputs and wait for every one.

        Args:
            inputs: Any iterable or async iterable of items, pulled as slots become free.
            workflow_context: Shared by all items; a new one by default.
            continue_on_error: Overrides the processor's own setting for this call.
            progress: Show a progress bar on a terminal; needs the extra `cli`.

        Returns:
            One result per input, in input order.

        Raises:
            TypeError: `inputs` is not an iterable of items.
            ItemFailedError: With `continue_on_error=False`, the first failed item, where it has no exception of its
                own; where it has one, that is raised. Everything in flight has been cancelled and has ended by then.
            JournalError: The journal cannot be used, or its disk failed; what it holds is kept.
        """
        return await self._batch(inputs, workflow_context, continue_on_error, progress, self.journal)

    async def _batch(
        self,
        inputs: Inputs,
        workflow_context: WorkflowContext | None,
        continue_on_error: bool | None,
        progress: bool,
        journal: JournalPolicy | Journal | None,
    ) -> BatchResults:
        check_inputs(inputs)
        results: list[BatchResult] = []
        scheduler = await self._prepare(
            inputs, workflow_context, continue_on_error, results.append, Admission(), progress, journal
        )
        scheduler.start()
        await scheduler.join()
        results.sort(key=_index)
        record = scheduler.batch
        wall_time = (record.finished_ns - record.started_ns) / 1e9
        return BatchResults(results, name=self.name, wall_time=wall_time, batch=record)

    def batch_as_completed(
        self,
        inputs: Inputs,
        workflow_context: WorkflowContext | None = None,
        *,
        continue_on_error: bool | None = None,
        progress: bool = False,
    ) -> ResultStream:
        """Run the node over all inputs and give the results as they finish.

        Args:
            inputs: Any iterable or async iterable of items, pulled no faster than results are taken.
            workflow_context: Shared by all items; a new one by default.
            continue_on_error: Overrides the processor's own setting for this call.
            progress: Show a progress bar on a terminal; needs the extra `cli`.

        Returns:
            An async iterator of results. Leaving it early cancels what is in flight.

        Raises:
            TypeError: `inputs` is not an iterable of items.
            JournalError: The journal cannot be used, or its disk failed; raised where the results are taken.
        """
        check_inputs(inputs)
        return ResultStream(
            lambda deliver: self._prepare(
                inputs,
                workflow_context,
                continue_on_error,
                deliver,
                Admission(self.max_concurrency),
                progress,
                self.journal,
            )
        )

    async def retry_failed(
        self,
        results: Iterable[BatchResult],
        workflow_context: WorkflowContext | None = None,
        *,
        continue_on_error: bool | None = None,
        progress: bool = False,
    ) -> BatchResults:
        """Run the failed ones of earlier results again; what was `Rejected` has no input to run and stays.

        With a journal the others are taken from it.

        Args:
            results: What `batch` or `batch_as_completed` gave, with a journal all of it; left unchanged.
            workflow_context: Shared by all items; a new one by default.
            continue_on_error: Overrides the processor's own setting for this call.
            progress: Show a progress bar on a terminal; needs the extra `cli`.

        Returns:
            All results in the order of their indices: new ones for those that had failed, the others as they were.

        Raises:
            ValueError: There is a journal, and the results are not those of a whole batch.
            TypeError: The processor was given an open journal.
            JournalError: The journal cannot be used, or its disk failed.
        """
        started = time.perf_counter()
        merged = list(results)
        places = [place for place, result in enumerate(merged) if not result.success and not _was_rejected(result)]
        if self.journal is None:
            inputs = [merged[place].input_data for place in places]
            again: list[BatchResult] = await self._batch(inputs, workflow_context, continue_on_error, progress, None)
        else:
            again = await self._retry_journaled(merged, workflow_context, continue_on_error, progress)
            again = [again[merged[place].index] for place in places]
        for place, result in zip(places, again, strict=True):
            result.index = merged[place].index
            merged[place] = result
        merged.sort(key=_index)
        return BatchResults(merged, name=self.name, wall_time=time.perf_counter() - started)

    async def _retry_journaled(
        self,
        results: list[BatchResult],
        workflow_context: WorkflowContext | None,
        continue_on_error: bool | None,
        progress: bool,
    ) -> BatchResults:
        """The whole batch anew, of which the journal gives what had not failed."""
        if not isinstance(self.journal, JournalPolicy):
            raise TypeError("retry_failed opens the journal anew: give the processor its path or a JournalPolicy")
        whole = sorted(results, key=_index)
        if [result.index for result in whole] != list(range(len(whole))):
            raise ValueError(
                f"with a journal, retry_failed takes the results of a whole batch, each index from 0 once, not "
                f"{len(whole)} of them with indices up to {whole[-1].index}: run batch() again with "
                "JournalPolicy(..., retry_failed=True)"
            )
        inputs = [
            Rejected(result.error or "", result.error_type or "RejectedInput", result.input_data)
            if _was_rejected(result)
            else result.input_data
            for result in whole
        ]
        journal = dataclasses.replace(self.journal, retry_failed=True)
        return await self._batch(inputs, workflow_context, continue_on_error, progress, journal)

    async def _open(self, journal: JournalPolicy | Journal) -> Keeper:
        """The journal of one batch; reading it may take a while, in which others have the loop."""
        loop = asyncio.get_running_loop()
        threaded = not is_virtual(loop)
        if isinstance(journal, Journal):
            return Keeper(journal, loop, threaded=threaded, close=False)
        opened = await open_in_thread(loop, journal, self.node) if threaded else journal.open(self.node)
        return Keeper(opened, loop, threaded=threaded, close=True)

    async def _prepare(
        self,
        inputs: Inputs,
        workflow_context: WorkflowContext | None,
        continue_on_error: bool | None,
        deliver: Deliver,
        admission: Admission,
        progress: bool,
        journal: JournalPolicy | Journal | None,
    ) -> Scheduler:
        """A scheduler that is ready to start, with its journal open."""
        sampled = () if self.speedup_sample is None else await self._sample(inputs, self.speedup_sample)
        keeper = None if journal is None else await self._open(journal)
        try:
            return self._scheduler(
                inputs,
                workflow_context,
                continue_on_error,
                deliver,
                admission,
                progress=progress,
                keeper=keeper,
                sampled=sampled,
            )
        except BaseException:
            if keeper is not None:
                await keeper.aclose()
            raise

    async def _sample(self, inputs: Inputs, size: int) -> tuple[Instrument, ...]:
        """Run some items one after another, where the inputs can be looked at before the batch."""
        if not isinstance(inputs, Sequence):
            _log.warning(
                "speedup_sample=%d is not used: the inputs of batch %r are a %s, not a sequence; pass a list",
                size,
                self.name,
                type(inputs).__name__,
            )
            return ()
        places = places_to_sample(len(inputs), size) if inputs else []
        places = [place for place in places if not isinstance(inputs[place], Rejected)]
        items = [isolate(inputs[place]) for place in places]
        session = self._executor.open(self.node, 1)
        try:
            times = await run_sequentially(self.node, items, self.item_timeout, session.invoke)
        finally:
            session.close()
        return (SampledSpeedup(dict(zip(places, times, strict=True))),)

    def _scheduler(
        self,
        inputs: Inputs,
        workflow_context: WorkflowContext | None,
        continue_on_error: bool | None,
        deliver: Deliver,
        admission: Admission,
        *,
        progress: bool,
        keeper: Keeper | None,
        sampled: tuple[Instrument, ...] = (),
    ) -> Scheduler:
        loop = asyncio.get_running_loop()
        clock = clock_of(loop)
        source = make_source(inputs)
        if keeper is not None and source.expected is not None:
            keeper.check_length(source.expected)
        batch = BatchRecord(
            name=self.name,
            node_id=self.node.node_id,
            node_type=self.node.node_type,
            batch_id=uuid.uuid4().hex,
            limit=self.max_concurrency if self._controller is None else self._controller.limit,
            expected=source.expected,
            epoch_offset_ns=time.time_ns() - clock(),
        )
        if self.telemetry.ledger:
            batch.ledger = Ledger(batch)
        instruments = (*self._observer.instruments(), *self._instruments, *((ProgressBar(),) if progress else ()))
        instruments += sampled
        recorder = None if self.record is None else _make_recorder(self.record, self)
        if recorder is not None:
            instruments = (recorder, *instruments)  # its `batch_ended` is called last
        dispatch = Dispatch(instruments)
        session = self._executor.open(self.node, self.max_concurrency)
        workflow = WorkflowContext() if workflow_context is None else workflow_context
        keep_going = self.continue_on_error if continue_on_error is None else continue_on_error
        guard, close_guard = self._make_guard(batch, loop, clock, dispatch)

        direct = make_direct(self.node, session.invoke) if guard is None and self.hedge is None else None
        begin = direct or make_begin(self.node, session.invoke, workflow, batch)
        hedging: Hedging | None = None
        if self.hedge is not None:
            hedging = Hedging(
                begin, self.hedge.begin(), batch, loop, clock, guard=guard, dispatch=dispatch, lose_one=session.lose_one
            )
            begin = hedging.begin

        def close() -> None:
            if hedging is not None:
                hedging.stop()
            close_guard()
            session.close()

        scheduler = Scheduler(
            batch=batch,
            source=source,
            begin=begin,
            settle=settle if direct is None else settle_value,
            admission=admission,
            deliver=deliver,
            dispatch=dispatch,
            clock=clock,
            guard=guard,
            keeper=keeper,
            hedging=hedging,
            fail_fast=not keep_going,
            item_timeout_s=self.item_timeout,
            batch_timeout_s=self.batch_timeout,
            lose_one=session.lose_one,
            close=close,
            save=None if recorder is None else recorder.save,
        )
        self._running.add(scheduler)
        return scheduler

    def _make_guard(
        self, batch: BatchRecord, loop: asyncio.AbstractEventLoop, clock: Clock, dispatch: Dispatch
    ) -> tuple[Guard | None, Callable[[], None]]:
        """The policies of one batch, and what to call at its end."""
        breaker = self.breaker
        if self.retry is None and not self.rate_limits and breaker is None and self._controller is None:
            return None, lambda: None

        def tell_circuit(transition: Transition) -> None:
            batch.circuit = transition
            dispatch.notify("circuit_changed", batch)

        guard = Guard(
            batch,
            clock,
            gate=RateGate(self.rate_limits, loop, clock) if self.rate_limits else None,
            breaker=breaker,
            retries=None if self.retry is None else self.retry.begin(self.max_concurrency),
            controller=self._controller,
            set_limit=self._set_running_limit,
        )
        return guard, (lambda: None) if breaker is None else breaker.subscribe(tell_circuit)

    def _check_that_attempts_can_be_cancelled(self) -> None:
        """A hedge gains nothing where the attempt that lost has to be waited for."""
        if isinstance(self._executor, (LoopExecutor, ThreadsExecutor)) and blocking_call(self.node) is not None:
            raise ValueError(
                f"hedge needs a node that can be cancelled, and {self.node.node_id!r} is a plain function in a thread, "
                "which runs to its end in any case: make it an `async def`, or leave out hedge"
            )

    def _set_running_limit(self, limit: int) -> None:
        for scheduler in list(self._running):
            batch = scheduler.batch
            if not scheduler.over and batch.limit != limit:
                if self._controller is None:
                    batch.limit_change = LimitChange(_now_ns(), batch.limit, limit, "set")
                else:
                    batch.limit_change = self._controller.changes[-1]
                scheduler.set_limit(limit)

    def set_max_concurrency(self, max_concurrency: int) -> None:
        """Change how many items may run at once, in batches under way and in later ones.

        A lower limit holds as the items in flight end; a slot that waits for an input has one item more first. With an
        `AdaptiveLimit` this sets where it goes on from, within its bounds. It must be called on the loop's thread.

        Args:
            max_concurrency: An int of at least 1.

        Raises:
            ValueError: It is anything else.
        """
        limit = check_concurrency(max_concurrency)
        if self._controller is None:
            self.max_concurrency = limit
        else:
            limit = self._controller.set(_now_ns(), limit)
        self._set_running_limit(limit)

    def __repr__(self) -> str:
        return f"BatchProcessor({self.node!r}, max_concurrency={self.max_concurrency}, name={self.name!r})"


def _check_recording_path(path: str | os.PathLike[str]) -> Path:
    from flowrt.recording.thread import check_recording_path  # noqa: PLC0415  # only for those who record

    return check_recording_path(path)


def _make_recorder(path: Path, processor: BatchProcessor) -> Recorder:
    from flowrt.recording.settings import describe_settings  # noqa: PLC0415  # only for those who record
    from flowrt.telemetry.recorder import Recorder  # noqa: PLC0415  # as above

    return Recorder(path, describe_settings(processor))


def _now_ns() -> int:
    """The time by the clock of the loop that runs in this thread, or by that of all real loops."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return time.perf_counter_ns()
    return clock_of(loop)()


def _was_rejected(result: BatchResult) -> bool:
    """Whether the input could not even be read, so that there is nothing to try again."""
    return result.status == "failed" and not result.attempts and result.exception is None


_index = attrgetter("index")
