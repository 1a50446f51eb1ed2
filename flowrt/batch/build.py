"""Builds a batch run from a processor's settings: the engine's parts, the policies, the journal, the instruments."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from flowrt._util.clock import clock_of
from flowrt.attribution.ledger import CONSUMER
from flowrt.attribution.wait import Wait
from flowrt.batch.active_runs import ActiveRuns
from flowrt.batch.cache_opening import open_cache
from flowrt.batch.config import BatchConfig, describe_settings
from flowrt.batch.journal_opening import open_journal
from flowrt.batch.progress_bar import make_progress_bar
from flowrt.engine.admission import Admission
from flowrt.engine.attempt import Begin, make_begin, make_direct, make_remote
from flowrt.engine.batch_run import BatchRun
from flowrt.engine.cache_store import CacheStore
from flowrt.engine.durability import JournalSink
from flowrt.engine.input_isolation import isolate
from flowrt.engine.instrument import Dispatch, Instrument
from flowrt.engine.outcome import Deliver, Settle, settle, settle_value
from flowrt.engine.parts import RunParts, UnstartedBlock
from flowrt.engine.pause import Pause
from flowrt.engine.policy_pipeline import PolicyPipeline
from flowrt.engine.source import make_source
from flowrt.executors import LoopExecutor, ThreadsExecutor
from flowrt.executors.base import Session, is_remote
from flowrt.model import BatchRecord, Rejected
from flowrt.model.node import WorkflowContext
from flowrt.model.type_variables import In
from flowrt.policies import AdaptiveLimit, RateLimiter, Transition
from flowrt.telemetry import Observer

if TYPE_CHECKING:
    from flowrt.recording.recorder import Recorder

__all__ = ["Inputs", "build_run"]

Inputs = Iterable[In | Rejected] | AsyncIterable[In | Rejected]
"""Where items of type `In` come from."""

_log: Final = logging.getLogger("flowrt.batch")


async def build_run(
    config: BatchConfig,
    inputs: Inputs,
    *,
    runs: ActiveRuns,
    observer: Observer,
    deliver: Deliver,
    deliver_unstarted: Callable[[UnstartedBlock], None] | None,
    workflow_context: WorkflowContext | None,
    progress: bool,
) -> BatchRun:
    """Build a run that is ready to start, with its journal open.

    Args:
        config: The processor's settings.
        inputs: Where items come from.
        runs: The processor's active runs, which this one joins.
        observer: The processor's built-in instruments.
        deliver: Takes the results.
        deliver_unstarted: Takes inputs that were never started; None where a consumer sets the pace, and results have
            to be bounded.
        workflow_context: Shared by all items; a new one by default.
        progress: Draw a progress bar.

    Raises:
        JournalError: The journal cannot be used.
    """
    sampled = () if config.speedup_sample is None else await _run_sample(config, inputs, config.speedup_sample)
    journal = None if config.journal is None else await open_journal(config.journal, config.node)
    cache: CacheStore | None = None
    try:
        if config.cache is not None:
            cache = await open_cache(config.cache, config.node)
        return _assemble(
            config,
            inputs,
            runs=runs,
            observer=observer,
            deliver=deliver,
            deliver_unstarted=deliver_unstarted,
            workflow_context=workflow_context,
            progress=progress,
            journal=journal,
            cache=cache,
            sampled=sampled,
        )
    except BaseException:
        if cache is not None:
            await cache.aclose()
        if journal is not None:
            await journal.aclose()
        raise


async def _run_sample(config: BatchConfig, inputs: Inputs, size: int) -> tuple[Instrument, ...]:
    """Run some items one after another, where the inputs can be read before the batch."""
    if not isinstance(inputs, Sequence):
        _log.warning(
            "speedup_sample=%d is not used: the inputs of batch %r are a %s, not a sequence; pass a list",
            size,
            config.name,
            type(inputs).__name__,
        )
        return ()
    from flowrt.batch.speedup_sample import (  # noqa: PLC0415  # only for those who want a sample
        SampledSpeedup,
        places_to_sample,
        run_sequentially,
    )

    places = places_to_sample(len(inputs), size) if inputs else []
    places = [place for place in places if not isinstance(inputs[place], Rejected)]
    items = [isolate(inputs[place]) for place in places]
    session = config.executor.open(config.node, 1)
    try:
        times = await run_sequentially(config.node, items, config.item_timeout, session.invoke)
    finally:
        session.close()
    return (SampledSpeedup(dict(zip(places, times, strict=True))),)


def _assemble(
    config: BatchConfig,
    inputs: Inputs,
    *,
    runs: ActiveRuns,
    observer: Observer,
    deliver: Deliver,
    deliver_unstarted: Callable[[UnstartedBlock], None] | None,
    workflow_context: WorkflowContext | None,
    progress: bool,
    journal: JournalSink | None,
    cache: CacheStore | None,
    sampled: tuple[Instrument, ...],
) -> BatchRun:
    loop = asyncio.get_running_loop()
    clock = clock_of(loop)
    node, controller = config.node, runs.controller
    source = make_source(inputs)
    if journal is not None and source.expected is not None:
        journal.check_length(source.expected)
    batch = BatchRecord(
        name=config.name,
        node_id=node.node_id,
        node_type=node.node_type,
        limit=config.limit if controller is None else controller.limit,
        expected=source.expected,
        keeps_ledger=config.telemetry.ledger,
        own_tasks=config.task_per_item,
        starts_at_once=journal is None and cache is None and not _has_policies(config),
        clock=clock,
        epoch_offset_ns=time.time_ns() - clock(),
    )
    batch.redact = observer.redact
    recorder = None if config.record is None else _make_recorder(config)
    dispatch = Dispatch(
        (
            *observer.instruments(),
            *config.instruments,
            *sampled,
            *((make_progress_bar(),) if progress else ()),
            *(() if recorder is None else (recorder,)),
        )
    )
    session = config.executor.open(node, config.limit)
    batch.cpu_time = getattr(session, "cpu_time", None)  # of threads; an executor from elsewhere may not measure it
    batch.in_process = isinstance(config.executor, (LoopExecutor, ThreadsExecutor))
    bounded = deliver_unstarted is None
    consumer = Wait(batch.ledger, CONSUMER, clock, loop) if bounded and batch.ledger is not None else None
    admission = Admission(config.limit if bounded else None, consumer)
    pause = Pause(batch, clock, admission, dispatch)
    policies, close_policies = _make_policies(config, runs, batch, loop, dispatch, pause)
    attempt, record_outcome = _make_attempt(config, session, batch, workflow_context, alone=policies is None)

    def close() -> None:
        close_policies()
        session.close()

    run = BatchRun(
        RunParts(
            batch=batch,
            loop=loop,
            clock=clock,
            source=source,
            admission=admission,
            pause=pause,
            attempt=attempt,
            settle=record_outcome,
            deliver=deliver,
            deliver_unstarted=deliver_unstarted,
            dispatch=dispatch,
            policies=policies,
            journal=journal,
            cache=cache,
            hedge=None if config.hedge is None else config.hedge.begin(),
            fail_fast=not config.continue_on_error,
            item_timeout_s=config.item_timeout,
            batch_timeout_s=config.batch_timeout,
            task_per_item=config.task_per_item,
            abandon_attempt=session.abandon_one,
            close=close,
            save=_in_turn(*(() if cache is None else (cache.aclose,)), *(() if recorder is None else (recorder.save,))),
        )
    )
    runs.add(run)
    return run


def _make_attempt(
    config: BatchConfig, session: Session, batch: BatchRecord, workflow: WorkflowContext | None, *, alone: bool
) -> tuple[Begin, Settle]:
    """What begins an attempt, and what records its outcome.

    Args:
        config: The processor's settings.
        session: The executor's session.
        batch: The batch's record.
        workflow: Shared by all items; a new one by default.
        alone: There are no policies around attempts.
    """
    node = config.node
    if is_remote(session):
        try:
            session.begin(WorkflowContext() if workflow is None else workflow)
        except BaseException:
            session.close()
            raise
        return make_remote(session, hedged=config.hedge is not None), settle
    direct = make_direct(node, session.invoke) if alone and config.hedge is None else None
    if direct is not None:
        return direct, settle_value
    return make_begin(node, session.invoke, WorkflowContext() if workflow is None else workflow, batch), settle


def _make_policies(
    config: BatchConfig,
    runs: ActiveRuns,
    batch: BatchRecord,
    loop: asyncio.AbstractEventLoop,
    dispatch: Dispatch,
    pause: Pause,
) -> tuple[PolicyPipeline | None, Callable[[], None]]:
    """The policies of one batch, and what to call at its end."""
    breaker, controller, clock = config.breaker, runs.controller, batch.clock
    if not _has_policies(config):
        return None, _do_nothing

    def notify_circuit(transition: Transition) -> None:
        batch.circuit = transition
        dispatch.notify("circuit_changed", batch)

    policies = PolicyPipeline(
        batch,
        clock,
        pause,
        rate_limiter=RateLimiter(config.rate_limit, loop, clock) if config.rate_limit else None,
        breaker=breaker,
        retries=None if config.retry is None else config.retry.begin(config.limit),
        controller=controller,
        set_limit=runs.set_limit,
    )
    return policies, _do_nothing if breaker is None else breaker.subscribe(notify_circuit)


def _has_policies(config: BatchConfig) -> bool:
    """True if a policy may hold an attempt back, repeat it, or learn from it."""
    adapts = isinstance(config.max_concurrency, AdaptiveLimit)
    return adapts or config.retry is not None or bool(config.rate_limit) or config.breaker is not None


def _in_turn(*work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]] | None:
    """One function that awaits several; None where there is none."""
    if len(work) < 2:
        return work[0] if work else None

    async def all_of_it() -> None:
        for each in work:
            await each()

    return all_of_it


def _do_nothing() -> None:
    pass


def _make_recorder(config: BatchConfig) -> Recorder | None:
    if config.record is None:
        return None
    from flowrt.recording.recorder import Recorder  # noqa: PLC0415  # only for those who record

    return Recorder(config.record, describe_settings(config))
