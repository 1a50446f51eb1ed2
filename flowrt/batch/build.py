"""Builds a batch run from a processor's settings: its plan, then engine parts, policies, journal and instruments."""

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
from flowrt.engine.parts import RunParts
from flowrt.engine.pause import Pause
from flowrt.engine.policy_pipeline import PolicyPipeline
from flowrt.engine.source import make_source
from flowrt.executors import LoopExecutor, ThreadsExecutor
from flowrt.executors.base import Session, is_remote
from flowrt.executors.loop import LoopSession
from flowrt.model import BatchRecord, Rejected
from flowrt.model.node import FunctionNode, WorkflowContext
from flowrt.model.type_variables import In
from flowrt.policies import AdaptiveLimit, CircuitBreaker, RateLimiter, Transition
from flowrt.telemetry import Observer

if TYPE_CHECKING:
    from flowrt.recording.recorder import Recorder

__all__ = ["BatchPlan", "Inputs", "assemble", "build_run"]

Inputs = Iterable[In | Rejected] | AsyncIterable[In | Rejected]
"""Any iterable or async iterable of items of type `In`."""

_log: Final = logging.getLogger("flowrt.batch")


class BatchPlan:
    """Plan shared by the batches of one configuration.

    A web service runs one small batch per request, and making the plan would cost more than running its items. The
    processor owns the plan, and makes a new one when a setting has changed.

    Args:
        config: The settings, which are frozen.
        runs: The processor's active runs, which a new one joins.
        input_key: The node receives `{input_key: input}`; None for the input itself.

    Attributes:
        config: The settings.
        runs: The processor's active runs.
        input_key: As the argument.
        limit: The concurrency limit, unless it adapts by itself.
        has_policies: True if a policy may delay an attempt, repeat it, or learn from it.
        opens_first: True if a journal, a cache or a sample must be opened or read before a run is assembled.
        in_process: True if attempts run in this process.
        starts_at_once: True if an item's first attempt starts when the item is pulled.
        takes_values: True if the node is a function, so that its values need no NodeResult around them.
    """

    __slots__ = (
        "_attempt",
        "_fn",
        "_session",
        "config",
        "has_policies",
        "in_process",
        "input_key",
        "limit",
        "opens_first",
        "runs",
        "starts_at_once",
        "takes_values",
    )

    def __init__(self, config: BatchConfig, runs: ActiveRuns, input_key: str | None = None) -> None:
        self.config = config
        self.runs = runs
        self.input_key = input_key
        self.limit = config.limit
        self.has_policies = (
            isinstance(config.max_concurrency, AdaptiveLimit)
            or config.retry is not None
            or bool(config.rate_limit)
            or config.breaker is not None
        )
        opened = (config.journal, config.cache, config.speedup_sample)
        self.opens_first = any(setting is not None for setting in opened)
        self.in_process = isinstance(config.executor, (LoopExecutor, ThreadsExecutor))
        self.starts_at_once = config.journal is None and config.cache is None and not self.has_policies
        self.takes_values = isinstance(config.node, FunctionNode)
        self._session: LoopSession | None = None
        self._attempt: tuple[Begin, Settle] | None = None
        self._fn: Any = None  # the node's function when the session was opened, since `node.fn` can be replaced

    def with_config(self, config: BatchConfig) -> BatchPlan:
        """Return the plan of the processor's new settings."""
        return BatchPlan(config, self.runs, self.input_key)

    def open_session(self) -> Session:
        """Open the executor's session for one batch. A loop's session has no state, so all batches share it."""
        config, session, fn = self.config, self._session, getattr(self.config.node, "fn", None)
        if session is not None and session.invoke == config.node.execute and fn is self._fn:
            return session
        opened = config.executor.open(config.node, self.limit)
        self._fn, self._session = fn, opened if type(opened) is LoopSession else None
        self._attempt = None
        return opened

    def attempt_of(self, session: Session, workflow: WorkflowContext | None) -> tuple[Begin, Settle]:
        """Return the functions that begin an attempt and record its outcome. On the loop, all batches share them.

        Args:
            session: The executor's session.
            workflow: Shared by all items; a new one by default.
        """
        if self._attempt is not None:
            return self._attempt
        config = self.config
        if not self.in_process and is_remote(session):
            try:
                session.begin(WorkflowContext() if workflow is None else workflow)
            except BaseException:
                session.close()
                raise
            return make_remote(session, hedged=config.hedge is not None), settle
        judges = config.retry is not None and config.retry.when is not None  # `when` receives a NodeResult
        direct = None
        if self.takes_values and not judges and config.hedge is None:
            direct = make_direct(config.node, session.invoke, self.input_key)
        attempt = (make_begin(session.invoke, self.input_key), settle) if direct is None else (direct, settle_value)
        if self._session is not None:
            self._attempt = attempt
        return attempt


async def build_run(
    plan: BatchPlan,
    inputs: Inputs,
    workflow_context: WorkflowContext | None,
    observer: Observer,
    deliver: Deliver,
    *,
    paced: bool,
    progress: bool,
) -> BatchRun:
    """Build a run that is ready to start, with its journal open.

    Args:
        plan: Plan of the processor's settings.
        inputs: Any iterable or async iterable of items.
        workflow_context: Shared by all items; a new one by default.
        observer: The processor's built-in instruments.
        deliver: Receives the results.
        paced: True if a consumer sets the pace, so that the number of undelivered results is bounded.
        progress: Draw a progress bar.

    Raises:
        JournalError: The journal cannot be used.
    """
    config = plan.config
    sampled = () if config.speedup_sample is None else await _run_sample(config, inputs, config.speedup_sample)
    journal = None if config.journal is None else await open_journal(config.journal, config.node)
    cache: CacheStore | None = None
    try:
        if config.cache is not None:
            cache = await open_cache(config.cache, config.node)
        return assemble(
            plan,
            inputs,
            workflow_context,
            observer,
            deliver,
            paced=paced,
            journal=journal,
            cache=cache,
            more=(*sampled, make_progress_bar()) if progress else sampled,
        )
    except BaseException:
        if cache is not None:
            await cache.aclose()
        if journal is not None:
            await journal.aclose()
        raise


async def _run_sample(config: BatchConfig, inputs: Inputs, size: int) -> tuple[Instrument, ...]:
    """Run a sample of the items one after another, if the inputs are a sequence."""
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


def assemble(
    plan: BatchPlan,
    inputs: Inputs,
    workflow_context: WorkflowContext | None,
    observer: Observer,
    deliver: Deliver,
    *,
    paced: bool = False,
    journal: JournalSink | None = None,
    cache: CacheStore | None = None,
    more: tuple[Instrument, ...] = (),
) -> BatchRun:
    """Assemble a run that is ready to start.

    Args:
        plan: As in `build_run`.
        inputs: As in `build_run`.
        workflow_context: As in `build_run`.
        observer: As in `build_run`.
        deliver: As in `build_run`.
        paced: As in `build_run`.
        journal: The open journal, or None.
        cache: The open cache, or None.
        more: Instruments for this batch only.

    Raises:
        JournalError: The journal belongs to another input.
    """
    config, runs, loop = plan.config, plan.runs, asyncio.get_running_loop()
    controller = runs.controller
    node, clock, source = config.node, clock_of(loop), make_source(inputs)
    if journal is not None and source.expected is not None:
        journal.check_length(source.expected)
    recorder = None if config.record is None else _make_recorder(config)
    if recorder is not None:
        more = (*more, recorder)
    dispatch = Dispatch.of((*observer.instruments(), *config.instruments, *more))
    session = plan.open_session()
    batch = BatchRecord(
        name=config.name,
        node_id=node.node_id,
        node_type=node.node_type,
        limit=plan.limit if controller is None else controller.limit,
        expected=source.expected,
        keeps_ledger=observer.keeps_ledger,
        own_tasks=config.task_per_item,
        starts_at_once=plan.starts_at_once,
        clock=clock,
        epoch_offset_ns=time.time_ns() - clock(),
    )
    batch.redact = observer.redact
    batch.in_process = plan.in_process
    batch.cpu_time = getattr(session, "cpu_time", None)  # only the sessions of threads measure it
    batch.workflow = workflow_context
    admission = Admission()
    if paced:
        consumer = None if batch.ledger is None else Wait(batch.ledger, CONSUMER, clock, loop)
        admission = Admission(plan.limit, consumer)
    pause = Pause(batch, clock, admission, dispatch)
    attempt, record_outcome = plan.attempt_of(session, workflow_context)
    # the optional parts are set one by one: as keyword arguments they would double the cost of making the object
    parts = RunParts(batch, loop, clock, source, admission, pause, attempt, deliver, dispatch, record_outcome)
    parts.paced = paced
    parts.journal = journal
    parts.cache = cache
    parts.fail_fast = not config.continue_on_error
    parts.item_timeout_s = config.item_timeout
    parts.batch_timeout_s = config.batch_timeout
    parts.task_per_item = config.task_per_item
    if type(session) is not LoopSession:  # whose methods do nothing
        parts.abandon_attempt, parts.close = session.abandon_one, session.close
    if config.breaker is not None:
        parts.close = _follow_breaker(config.breaker, batch, dispatch, parts.close)
    parts.owner = runs
    parts.observed = observer.watches
    if plan.has_policies:
        parts.policies = _make_policies(config, runs, batch, loop, pause)
    if config.hedge is not None:
        parts.hedge = config.hedge.begin()
    if cache is not None or recorder is not None:
        parts.save = _in_turn(
            *(() if cache is None else (cache.aclose,)), *(() if recorder is None else (recorder.save,))
        )
    return BatchRun(parts)


def _make_policies(
    config: BatchConfig, runs: ActiveRuns, batch: BatchRecord, loop: asyncio.AbstractEventLoop, pause: Pause
) -> PolicyPipeline:
    """Make the policies around the attempts of one batch."""
    return PolicyPipeline(
        batch,
        batch.clock,
        pause,
        rate_limiter=RateLimiter(config.rate_limit, loop, batch.clock) if config.rate_limit else None,
        breaker=config.breaker,
        retries=None if config.retry is None else config.retry.begin(config.limit),
        controller=runs.controller,
        set_limit=runs.set_limit,
    )


def _follow_breaker(
    breaker: CircuitBreaker, batch: BatchRecord, dispatch: Dispatch, close_session: Callable[[], None]
) -> Callable[[], None]:
    """Notify the instruments of each change of the circuit breaker.

    Args:
        breaker: The node's circuit breaker, which other batches may share.
        batch: The batch's record.
        dispatch: The instruments' hooks.
        close_session: Closes the executor's session.

    Returns:
        A function that ends the notifications and closes the session.
    """

    def notify(transition: Transition) -> None:
        batch.circuit = transition
        dispatch.notify("circuit_changed", batch)

    unsubscribe = breaker.subscribe(notify)

    def close() -> None:
        unsubscribe()
        close_session()

    return close


def _in_turn(*work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]] | None:
    """Return one function that awaits all of `work` in order, or None if there is none."""
    if len(work) < 2:
        return work[0] if work else None

    async def all_of_it() -> None:
        for each in work:
            await each()

    return all_of_it


def _make_recorder(config: BatchConfig) -> Recorder | None:
    if config.record is None:
        return None
    from flowrt.recording.recorder import Recorder  # noqa: PLC0415  # only for those who record

    return Recorder(config.record, describe_settings(config))
