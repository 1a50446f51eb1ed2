"""How a processor's batches are put together: the engine's parts, the policies, the journal and the instruments."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowrt._util.clock import Clock, clock_of, is_virtual
from flowrt.attribution.ledger import Ledger
from flowrt.batch.progress_bar import ProgressBar
from flowrt.engine.admission import Admission
from flowrt.engine.attempt import make_begin, make_direct, settle, settle_value
from flowrt.engine.durability import JournalSink, open_in_thread
from flowrt.engine.hedging import Hedging
from flowrt.engine.input_isolation import isolate
from flowrt.engine.instrument import Dispatch, Instrument
from flowrt.engine.policy_pipeline import PolicyPipeline
from flowrt.engine.source import make_source
from flowrt.engine.worker import Deliver, Scheduler
from flowrt.executors import Executor
from flowrt.journal import Journal, JournalPolicy
from flowrt.model import BatchRecord, Rejected
from flowrt.model.node import BaseNode, WorkflowContext
from flowrt.policies import (
    CircuitBreaker,
    Hedge,
    LimitChange,
    LimitController,
    RateLimit,
    RateLimiter,
    RetryPolicy,
    Transition,
)
from flowrt.telemetry import Observer
from flowrt.telemetry.options import Telemetry

if TYPE_CHECKING:
    from flowrt.recording.recorder import Recorder

__all__ = ["Assembly", "Inputs", "now_ns"]

Inputs = Iterable[Any] | AsyncIterable[Any]
_log: Final = logging.getLogger("flowrt.batch")


class Assembly:
    """Puts one batch after another together, by the settings of a `BatchProcessor`, which checks and sets them."""

    node: BaseNode
    name: str
    max_concurrency: int
    continue_on_error: bool
    item_timeout: float | None
    batch_timeout: float | None
    retry: RetryPolicy | None
    rate_limits: tuple[RateLimit, ...]
    breaker: CircuitBreaker | None
    hedge: Hedge | None
    record: Path | None
    speedup_sample: int | None
    telemetry: Telemetry
    _controller: LimitController | None
    _executor: Executor
    _instruments: tuple[Instrument, ...]
    _observer: Observer
    _running: weakref.WeakSet[Scheduler]

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

    async def _open(self, journal: JournalPolicy | Journal) -> JournalSink:
        """The journal of one batch; reading it may take a while, in which others have the loop."""
        loop = asyncio.get_running_loop()
        threaded = not is_virtual(loop)
        if isinstance(journal, Journal):
            return JournalSink(journal, loop, threaded=threaded, close=False)
        opened = await open_in_thread(loop, journal, self.node) if threaded else journal.open(self.node)
        return JournalSink(opened, loop, threaded=threaded, close=True)

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
        # before the batch, and only for those who want a sample
        from flowrt.batch.speedup_sample import (  # noqa: PLC0415
            SampledSpeedup,
            places_to_sample,
            run_sequentially,
        )

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
        keeper: JournalSink | None,
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
            clock=clock,
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
                begin,
                self.hedge.begin(),
                batch,
                loop,
                clock,
                guard=guard,
                dispatch=dispatch,
                abandon_one=session.abandon_one,
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
            abandon_one=session.abandon_one,
            close=close,
            save=None if recorder is None else recorder.save,
        )
        self._running.add(scheduler)
        return scheduler

    def _make_guard(
        self, batch: BatchRecord, loop: asyncio.AbstractEventLoop, clock: Clock, dispatch: Dispatch
    ) -> tuple[PolicyPipeline | None, Callable[[], None]]:
        """The policies of one batch, and what to call at its end."""
        breaker = self.breaker
        if self.retry is None and not self.rate_limits and breaker is None and self._controller is None:
            return None, lambda: None

        def tell_circuit(transition: Transition) -> None:
            batch.circuit = transition
            dispatch.notify("circuit_changed", batch)

        guard = PolicyPipeline(
            batch,
            clock,
            gate=RateLimiter(self.rate_limits, loop, clock) if self.rate_limits else None,
            breaker=breaker,
            retries=None if self.retry is None else self.retry.begin(self.max_concurrency),
            controller=self._controller,
            set_limit=self._set_running_limit,
        )
        return guard, (lambda: None) if breaker is None else breaker.subscribe(tell_circuit)

    def _set_running_limit(self, limit: int) -> None:
        for scheduler in list(self._running):
            batch = scheduler.batch
            if not scheduler.over and batch.limit != limit:
                if self._controller is None:
                    batch.limit_change = LimitChange(now_ns(), batch.limit, limit, "set")
                else:
                    batch.limit_change = self._controller.changes[-1]
                scheduler.set_limit(limit)


def _make_recorder(path: Path, processor: Assembly) -> Recorder:
    from flowrt.batch.config import describe_settings  # noqa: PLC0415  # only for those who record
    from flowrt.recording.recorder import Recorder  # noqa: PLC0415  # as above

    return Recorder(path, describe_settings(processor))


def now_ns() -> int:
    """The time by the clock of the loop that runs in this thread, or by that of all real loops."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return time.perf_counter_ns()
    return clock_of(loop)()
