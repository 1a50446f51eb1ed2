"""BatchProcessor: run one node over many items at once."""

from __future__ import annotations

import dataclasses
import os
import time
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flowrt._util.validation import check_concurrency, check_count, check_duration, check_policy
from flowrt.batch.build import Assembly, Inputs, now_ns
from flowrt.batch.results import BY_INDEX, BatchResults
from flowrt.engine.admission import Admission
from flowrt.engine.instrument import Dispatch, Instrument
from flowrt.engine.result_stream import ResultStream
from flowrt.engine.source import check_inputs
from flowrt.engine.worker import Scheduler
from flowrt.executors import Executor, LoopExecutor, ThreadsExecutor, executor_of
from flowrt.executors.threads import blocking_call
from flowrt.journal import Journal, JournalPolicy
from flowrt.model import BatchResult, Rejected
from flowrt.model.node import WorkflowContext, as_node
from flowrt.policies import AdaptiveLimit, CircuitBreaker, Hedge, RateLimit, RetryPolicy
from flowrt.policies.rate_limiter import check_limits
from flowrt.telemetry import Observer
from flowrt.telemetry.options import Telemetry

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BatchProcessor"]


class BatchProcessor(Assembly):
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
        try:
            await scheduler.join()
        except BaseException:
            del results, scheduler  # which the error's traceback would hold, and a result's own error be a cycle
            raise
        results.sort(key=BY_INDEX)
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
        merged.sort(key=BY_INDEX)
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
        whole = sorted(results, key=BY_INDEX)
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

    def _check_that_attempts_can_be_cancelled(self) -> None:
        """A hedge gains nothing where the attempt that lost has to be waited for."""
        if isinstance(self._executor, (LoopExecutor, ThreadsExecutor)) and blocking_call(self.node) is not None:
            raise ValueError(
                f"hedge needs a node that can be cancelled, and {self.node.node_id!r} is a plain function in a thread, "
                "which runs to its end in any case: make it an `async def`, or leave out hedge"
            )

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
            limit = self._controller.set(now_ns(), limit)
        self._set_running_limit(limit)

    def __repr__(self) -> str:
        return f"BatchProcessor({self.node!r}, max_concurrency={self.max_concurrency}, name={self.name!r})"


def _check_recording_path(path: str | os.PathLike[str]) -> Path:
    from flowrt.recording.writer_thread import check_recording_path  # noqa: PLC0415  # only for those who record

    return check_recording_path(path)


def _was_rejected(result: BatchResult) -> bool:
    """Whether the input could not even be read, so that there is nothing to try again."""
    return result.status == "failed" and not result.attempts and result.exception is None
