"""BatchProcessor: run one node over many items at once."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Unpack, overload

from flowrt._util.validation import check_concurrency
from flowrt.batch.active_runs import ActiveRuns, now_ns
from flowrt.batch.build import BatchPlan, Inputs, assemble, build_run
from flowrt.batch.collect import collect
from flowrt.batch.config import BatchConfig
from flowrt.batch.results import BY_INDEX, BatchResults, was_rejected
from flowrt.batch.settings import KeywordSettings, Setting, use_presets
from flowrt.batch.stream import BatchStream
from flowrt.engine.batch_run import BatchRun
from flowrt.engine.instrument import Instrument
from flowrt.engine.outcome import Deliver
from flowrt.engine.source import check_inputs
from flowrt.errors import Interrupted
from flowrt.executors import Executor, ExecutorName
from flowrt.journal import Journal, JournalPolicy
from flowrt.model import BatchResult, Rejected
from flowrt.model.foreign_node import ForeignNode
from flowrt.model.node import AsyncFunction, BaseNode, PlainFunction, ResultFunction, WorkflowContext
from flowrt.model.type_variables import In, Out
from flowrt.policies import AdaptiveLimit, Cache, CircuitBreaker, Hedge, RateLimit, RetryPolicy
from flowrt.telemetry import Observer
from flowrt.telemetry.options import Telemetry

__all__ = ["BatchProcessor"]


class BatchProcessor(Generic[In, Out]):
    """Runs a node over many items at once, with every item observed.

    A type checker infers `In`, the type of an item, and `Out`, that of an output, from the node.

    Args:
        node: A BaseNode, or a function of one argument. A plain function runs in a worker thread. The settings of a
            `flowrt.node` are the defaults of the other arguments.
        max_concurrency: How many items may run at once: an int of at least 1, or an `AdaptiveLimit`.
        continue_on_error: False stops the batch at the first failed item, and raises its error.
        item_timeout: Time limit of one attempt, in seconds. An item that exceeds it ends `timed_out`; the other items
            continue.
        batch_timeout: Time limit of the whole batch, in seconds. Items that have not finished by then end `cancelled`.
            Inputs that a generator has not yielded by then have no result, which `raise_for_failures` reports.
        retry: Which failed attempts are tried again: a `RetryPolicy`, or the number of attempts; None for none.
        rate_limit: How many attempts may start per unit of time: a `RateLimit`, a rate such as `"100/s"`, or several,
            all of which apply.
        breaker: Circuit breaker, which stops attempts while the service fails too often.
        cache: Cache of outputs by input: a `Cache`, the path of a file, or True to keep outputs in memory.
        hedge: Policy for starting a second attempt of an item whose attempt is unusually slow.
        executor: Where attempts run: `"loop"` (the default), `"threads"`, or an executor.
        journal: File of finished items, from which a later batch over the same inputs resumes. Every finished item is
            on the disk before its result is delivered; the later batch returns it as `resumed`. A path or a
            `JournalPolicy`; or an open `flowrt.journal.Journal` for one batch, which you close yourself.
        record: File for the times of every attempt, which `flowrt report` and `flowrt whatif` read. A later batch of
            this processor replaces it. Needs the extra `parquet`.
        speedup_sample: Number of items to run one after another before the batch, in order to measure its speedup; they
            run again in the batch. The inputs must be a sequence. By default no item runs twice, and the speedup is
            computed from how long items delayed each other.
        name: The `batch` label of metrics, spans and logs; the node's id by default.
        telemetry: True for all the built-in instruments, False for none, or a `flowrt.Telemetry` to choose.
        instruments: Further instruments of your own.
        task_per_item: Run each item in a task of its own, as `asyncio.gather` does, with its own cancellation, context
            variables and `asyncio.current_task()`. False shares one task among the items of a slot, which saves about
            2 µs per item, for nodes of a few microseconds. Then a library's late `task.cancel()` may end the slot's
            next item, and state that is keyed by the task or set in a context variable passes to the next item.

    The settings can be read as attributes of the same names. All but `node`, `name`, `telemetry` and `instruments` can
    also be set: a new value is checked, and applies to later batches.

    Raises:
        ValueError: A setting is out of its range.
        TypeError: The node is neither a node nor a function, or a setting is of the wrong kind.

    Example:
        >>> import asyncio, flowrt
        >>> async def double(x):
        ...     return 2 * x
        >>> results = asyncio.run(flowrt.BatchProcessor(double, max_concurrency=3).batch([1, 2, 3]))
        >>> [result.output for result in results]
        [2, 4, 6]
    """

    node = Setting[BaseNode](fixed=True)
    name = Setting[str](fixed=True)
    continue_on_error = Setting[bool]()
    item_timeout = Setting[float | None]()
    batch_timeout = Setting[float | None]()
    retry = Setting[RetryPolicy | None]()
    rate_limit = Setting[tuple[RateLimit, ...]]()
    breaker = Setting[CircuitBreaker | None]()
    cache = Setting[Cache | None]()
    hedge = Setting[Hedge | None]()
    executor = Setting[Executor]()
    journal = Setting[JournalPolicy | Journal | None]()
    record = Setting[Path | None]()
    speedup_sample = Setting[int | None]()
    telemetry = Setting[Telemetry](fixed=True)
    instruments = Setting[tuple[Instrument, ...]](fixed=True)
    task_per_item = Setting[bool]()

    @overload
    def __init__(
        self,
        node: BaseNode[In, Out],
        max_concurrency: int | AdaptiveLimit = 10,
        continue_on_error: bool = True,
        **settings: Unpack[KeywordSettings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        node: ResultFunction[In, Out],
        max_concurrency: int | AdaptiveLimit = 10,
        continue_on_error: bool = True,
        **settings: Unpack[KeywordSettings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        node: AsyncFunction[In, Out],
        max_concurrency: int | AdaptiveLimit = 10,
        continue_on_error: bool = True,
        **settings: Unpack[KeywordSettings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        node: PlainFunction[In, Out],
        max_concurrency: int | AdaptiveLimit = 10,
        continue_on_error: bool = True,
        **settings: Unpack[KeywordSettings],
    ) -> None: ...
    @overload
    def __init__(
        self: BatchProcessor[Any, Any],
        node: ForeignNode,
        max_concurrency: int | AdaptiveLimit = 10,
        continue_on_error: bool = True,
        **settings: Unpack[KeywordSettings],
    ) -> None: ...
    @use_presets
    def __init__(
        self,
        node: Any,
        max_concurrency: int | AdaptiveLimit = 10,
        continue_on_error: bool = True,
        *,
        item_timeout: float | None = None,
        batch_timeout: float | None = None,
        retry: RetryPolicy | int | None = None,
        rate_limit: RateLimit | str | Iterable[RateLimit | str] | None = None,
        breaker: CircuitBreaker | None = None,
        cache: Cache | str | os.PathLike[str] | bool | None = None,
        hedge: Hedge | None = None,
        executor: ExecutorName | Executor | None = None,
        journal: str | os.PathLike[str] | JournalPolicy | Journal | None = None,
        record: str | os.PathLike[str] | None = None,
        speedup_sample: int | None = None,
        name: str | None = None,
        telemetry: bool | Telemetry = True,
        instruments: Iterable[Instrument] = (),
        task_per_item: bool = True,
    ) -> None:
        self.config = BatchConfig.of(
            node=node,
            name=name,
            max_concurrency=max_concurrency,
            continue_on_error=continue_on_error,
            item_timeout=item_timeout,
            batch_timeout=batch_timeout,
            retry=retry,
            rate_limit=rate_limit,
            breaker=breaker,
            cache=cache,
            hedge=hedge,
            executor=executor,
            journal=journal,
            record=record,
            speedup_sample=speedup_sample,
            telemetry=telemetry,
            instruments=instruments,
            task_per_item=task_per_item,
        )
        self._runs = ActiveRuns(max_concurrency.begin() if isinstance(max_concurrency, AdaptiveLimit) else None)
        self._plan = BatchPlan(self.config, self._runs)
        self._observer = Observer(self.config.telemetry, self.name, self.node.node_id, self.max_concurrency)

    @property
    def max_concurrency(self) -> int:
        """Most items that may run at once; the upper bound of an `AdaptiveLimit`. Set by `set_max_concurrency`."""
        return self.config.limit

    @max_concurrency.setter
    def max_concurrency(self, limit: int) -> None:
        self.set_max_concurrency(limit)

    async def batch(
        self,
        inputs: Inputs[In],
        workflow_context: WorkflowContext | None = None,
        *,
        continue_on_error: bool | None = None,
        progress: bool = False,
    ) -> BatchResults[In, Out]:
        """Run the node over all inputs and wait for every one.

        Args:
            inputs: Any iterable or async iterable of items, pulled as slots become free.
            workflow_context: Shared by all items; a new one by default.
            continue_on_error: Overrides the processor's own setting for this call.
            progress: Show a progress bar on a terminal; needs the extra `cli`.

        Returns:
            One result per input, in input order; none for what a generator has not yielded by `batch_timeout`.

        Raises:
            TypeError: `inputs` is not an iterable of items.
            ItemFailedError: With `continue_on_error=False`, an item failed without an exception of its own.
            JournalError: The journal cannot be used, or its disk failed. Items that it holds stay there.
            Interrupted: A signal drained the batch, in a `Runtime`; `results` of the exception has the results.
            Exception: With `continue_on_error=False`, the exception of the first failed item; or the exception of
                `inputs`, whose attribute `results` has the results of the items that finished. It is raised when
                every item in flight has ended.
        """
        return await self._batch(self._config(continue_on_error), inputs, workflow_context, progress)

    def _batch(
        self, config: BatchConfig, inputs: Inputs[In], workflow_context: WorkflowContext | None, progress: bool
    ) -> Coroutine[Any, Any, BatchResults[In, Out]]:
        check_inputs(inputs)
        results: list[BatchResult] = []
        return collect(self._build(results.append, config, inputs, workflow_context, progress), results, config.name)

    def batch_as_completed(
        self,
        inputs: Inputs[In],
        workflow_context: WorkflowContext | None = None,
        *,
        continue_on_error: bool | None = None,
        progress: bool = False,
    ) -> BatchStream[In, Out]:
        """Run the node over all inputs and yield the results as they finish.

        Args:
            inputs: Any iterable or async iterable of items, pulled no faster than results are taken.
            workflow_context: Shared by all items; a new one by default.
            continue_on_error: Overrides the processor's own setting for this call.
            progress: Show a progress bar on a terminal; needs the extra `cli`.

        Returns:
            An async iterator of results. Leaving it early cancels the items in flight. Its `report` is available once
            the batch has ended.

        Raises:
            TypeError: `inputs` is not an iterable of items.
            JournalError: The journal cannot be used, or its disk failed; raised by the iterator.
            Interrupted: A signal drained the batch, in a `Runtime`; raised by the iterator after the last result.
            BatchFailedError: The batch was ended before its input had; raised by the iterator after the last result.
        """
        check_inputs(inputs)
        config = self._config(continue_on_error)
        return BatchStream(
            lambda deliver: self._build(deliver, config, inputs, workflow_context, progress, paced=True), config.name
        )

    async def retry_failed(
        self,
        results: Iterable[BatchResult[In, Out]],
        workflow_context: WorkflowContext | None = None,
        *,
        continue_on_error: bool | None = None,
        progress: bool = False,
    ) -> BatchResults[In, Out]:
        """Run the failed items of earlier results again, except `Rejected` items, which have no input.

        With a journal, the results of the other items are read from the journal.

        Args:
            results: Results of `batch` or `batch_as_completed`; with a journal, all results of one batch. The list is
                not changed.
            workflow_context: Shared by all items; a new one by default.
            continue_on_error: Overrides the processor's own setting for this call.
            progress: Show a progress bar on a terminal; needs the extra `cli`.

        Returns:
            All results in the order of their indices: new results of the failed items, the others as they were.

        Raises:
            ValueError: There is a journal, and the results are not those of a whole batch.
            TypeError: The processor's journal is an open `Journal`, not a path or a policy.
            JournalError: The journal cannot be used, or its disk failed.
            Interrupted: A signal drained the batch, in a `Runtime`; `results` of the exception has the merged results.
        """
        started = time.perf_counter()
        merged = list(results)
        places = [place for place, result in enumerate(merged) if not result.success and not was_rejected(result)]
        interrupted: Interrupted | None = None
        try:
            again = await self._retry(merged, places, workflow_context, continue_on_error, progress)
        except Interrupted as exc:
            again, interrupted = exc.results, exc
        if self.journal is not None:
            again = [again[merged[place].index] for place in places]
        for place, result in zip(places, again, strict=True):
            result.index = merged[place].index
            merged[place] = result
        merged.sort(key=BY_INDEX)
        all_results = BatchResults(merged, name=self.name, wall_time=time.perf_counter() - started)
        all_results.cut_off = results.cut_off if isinstance(results, BatchResults) else None
        if interrupted is not None:
            raise Interrupted(interrupted.signum, all_results) from None
        return all_results

    async def _retry(
        self,
        results: list[BatchResult[In, Out]],
        places: list[int],
        workflow_context: WorkflowContext | None,
        continue_on_error: bool | None,
        progress: bool,
    ) -> list[BatchResult[In, Out]]:
        """Run the failed items; returns their results or, with a journal, the results of the whole batch."""
        if self.journal is None:
            inputs = [results[place].input_data for place in places]
            return await self._batch(self._config(continue_on_error), inputs, workflow_context, progress)
        if not isinstance(self.journal, JournalPolicy):
            raise TypeError("retry_failed opens the journal anew: give the processor its path or a JournalPolicy")
        whole = sorted(results, key=BY_INDEX)
        if [result.index for result in whole] != list(range(len(whole))):
            raise ValueError(
                f"with a journal, retry_failed takes the results of a whole batch, each index from 0 once, not "
                f"{len(whole)} of them with indices up to {whole[-1].index}: run batch() again with "
                "JournalPolicy(..., retry_failed=True)"
            )
        again = [
            Rejected(result.error or "", result.error_type or "RejectedInput", result.input_data)
            if was_rejected(result)
            else result.input_data
            for result in whole
        ]
        config = replace(self._config(continue_on_error), journal=replace(self.journal, retry_failed=True))
        return await self._batch(config, again, workflow_context, progress)

    def _config(self, continue_on_error: bool | None) -> BatchConfig:
        if continue_on_error is None or continue_on_error is self.config.continue_on_error:
            return self.config
        return replace(self.config, continue_on_error=continue_on_error)

    def _plan_of(self, config: BatchConfig) -> BatchPlan:
        if self._plan.config is not config:  # a setting has changed since the previous batch
            self._plan = self._plan.with_config(config)
        return self._plan

    def _build(
        self,
        deliver: Deliver,
        config: BatchConfig,
        inputs: Inputs[In],
        workflow_context: WorkflowContext | None,
        progress: bool,
        *,
        paced: bool = False,
    ) -> BatchRun | Awaitable[BatchRun]:
        """Build a run, or return an awaitable of one if a file has to be opened first."""
        plan = self._plan_of(config)
        observer = self._observer
        if progress or plan.opens_first:
            return build_run(plan, inputs, workflow_context, observer, deliver, paced=paced, progress=progress)
        return assemble(plan, inputs, workflow_context, observer, deliver, paced=paced)

    def set_max_concurrency(self, max_concurrency: int) -> None:
        """Change how many items may run at once, in active batches and in later ones.

        A lower limit takes effect as the items in flight end; a slot that waits for an input runs one item more first.
        With an `AdaptiveLimit`, this sets its current limit within its bounds. Call it on the loop's thread.

        Args:
            max_concurrency: An int of at least 1.

        Raises:
            ValueError: `max_concurrency` is anything else.
        """
        limit = check_concurrency(max_concurrency)
        controller = self._runs.controller
        if controller is None:
            self.config = replace(self.config, max_concurrency=limit)
        else:
            limit = controller.set(now_ns(), limit)
        self._runs.set_limit(limit)

    def __repr__(self) -> str:
        return f"BatchProcessor({self.node!r}, max_concurrency={self.max_concurrency}, name={self.name!r})"
