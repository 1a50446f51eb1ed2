"""Parts of a batch run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from flowrt._util.clock import Clock
from flowrt.engine.admission import Admission
from flowrt.engine.attempt import Begin
from flowrt.engine.cache_store import CacheStore
from flowrt.engine.durability import JournalSink
from flowrt.engine.instrument import Dispatch
from flowrt.engine.outcome import Deliver, Settle, settle
from flowrt.engine.pause import Pause
from flowrt.engine.policy_pipeline import PolicyPipeline
from flowrt.engine.source import Source
from flowrt.model import BatchRecord
from flowrt.policies.hedging import HedgeTracker

__all__ = ["RunParts", "UnstartedBlock"]


def _do_nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class UnstartedBlock:
    """Inputs that were cancelled in bulk without having been started.

    Args:
        first_index: Index of the first of them; the others follow it.
        inputs: The inputs.
        error: The error of their results.
    """

    first_index: int
    inputs: list[Any]
    error: str


@dataclass(slots=True)  # not frozen, nor a NamedTuple: either takes several times as long to make, for every batch
class RunParts:
    """Parts of one batch run, assembled by `flowrt.batch.build`.

    Args:
        batch: The batch's record.
        loop: The running loop.
        clock: Returns monotonic nanoseconds.
        source: Source of the inputs.
        admission: Permits for items.
        pause: Pauses the batch.
        attempt: Begins one attempt.
        deliver: Receives the results.
        dispatch: The instruments' hooks.
        settle: Records the value that an attempt returned.
        paced: True if a consumer sets the pace, as in a stream. False lets inputs that were never started be kept as a
            block, whose results are made on demand.
        policies: The policies around attempts, or None.
        journal: The journal of finished items, or None.
        cache: Cached outputs of earlier inputs, or None.
        hedge: Decides which items get a second attempt beside their first, or None.
        fail_fast: Stop at the first item that does not end ok.
        item_timeout_s: Time limit of one attempt, in seconds, or None.
        batch_timeout_s: Time limit of the whole batch, in seconds, or None.
        task_per_item: Run each item in a task of its own; False shares a task among the items of a slot.
        abandon_attempt: Called when an attempt has outlasted the grace period and is left running.
        close: Called once, after the last slot has ended.
        save: Awaited once, after the batch's end and before `join` returns; it raises nothing.
        owner: Owner of the run, such as the processor's active runs.
        observed: True if any telemetry observes the batch.
    """

    batch: BatchRecord
    loop: asyncio.AbstractEventLoop
    clock: Clock
    source: Source
    admission: Admission
    pause: Pause
    attempt: Begin
    deliver: Deliver
    dispatch: Dispatch
    settle: Settle = settle
    paced: bool = False
    policies: PolicyPipeline | None = None
    journal: JournalSink | None = None
    cache: CacheStore | None = None
    hedge: HedgeTracker | None = None
    fail_fast: bool = False
    item_timeout_s: float | None = None
    batch_timeout_s: float | None = None
    task_per_item: bool = True
    abandon_attempt: Callable[[], None] = _do_nothing
    close: Callable[[], None] = _do_nothing
    save: Callable[[], Coroutine[Any, Any, None]] | None = None
    owner: object = None
    observed: bool = True
