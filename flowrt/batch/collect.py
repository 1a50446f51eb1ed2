"""Results of one batch, collected in input order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from flowrt.batch.partial_results import PartialResults
from flowrt.batch.results import BY_INDEX, BatchResults, attach_results
from flowrt.engine.batch_run import BatchRun
from flowrt.engine.outcome import Deliver
from flowrt.engine.parts import UnstartedBlock
from flowrt.model import BatchRecord, BatchResult

__all__ = ["collect"]


async def collect(
    build: Callable[[Deliver, Callable[[UnstartedBlock], None]], BatchRun | Awaitable[BatchRun]], name: str
) -> BatchResults[Any, Any]:
    """Run a batch to its end and return its results in input order.

    Args:
        build: Builds the run; it is given what takes results, and what takes inputs that were never started.
        name: Name of the batch.

    Raises:
        Interrupted: A signal drained the batch, also if its caller was then cancelled.
        BaseException: What `BatchRun.join` raises. If the source raised it, it has the results as its attribute
            `results`.
    """
    results: list[BatchResult] = []
    unstarted: list[UnstartedBlock] = []
    built = build(results.append, unstarted.append)
    run = built if isinstance(built, BatchRun) else await built
    run.start()
    try:
        await run.join()
    except BaseException as exc:
        if run.source_failed:
            results.sort(key=BY_INDEX)
            attach_results(exc, BatchResults(results, name=name, batch=run.batch))
        if run.interruption is None or not isinstance(exc, asyncio.CancelledError):
            del results, run, built  # which the error's traceback would hold, and a result's own error be a cycle
            raise
    collected = _in_order(results, unstarted, run.batch)
    if run.interruption is not None:
        await run.raise_if_interrupted(collected)
    return collected


def _in_order(results: list[BatchResult], unstarted: list[UnstartedBlock], batch: BatchRecord) -> BatchResults:
    results.sort(key=BY_INDEX)
    wall_time = (batch.finished_ns - batch.started_ns) / 1e9
    if unstarted:
        return PartialResults(results, unstarted[0], name=batch.name, wall_time=wall_time, batch=batch)
    return BatchResults(results, name=batch.name, wall_time=wall_time, batch=batch)
