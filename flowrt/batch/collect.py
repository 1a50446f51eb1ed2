"""Results of one batch, collected in input order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from flowrt.batch.partial_results import PartialResults
from flowrt.batch.results import BY_INDEX, BatchResults, attach_results
from flowrt.engine.batch_run import BatchRun
from flowrt.model import BatchResult

__all__ = ["collect"]


async def collect(
    built: BatchRun | Awaitable[BatchRun], results: list[BatchResult], name: str
) -> BatchResults[Any, Any]:
    """Run a batch to its end and return its results in input order.

    Args:
        built: The run, or an awaitable of it.
        results: Where the run delivers its results.
        name: Name of the batch.

    Raises:
        Interrupted: A signal drained the batch, even if the caller was then cancelled.
        BaseException: What `BatchRun.join` raises. An exception of the source gets the attribute `results`, with the
            results of the items that have finished.
    """
    run = built if isinstance(built, BatchRun) else await built
    run.start()
    try:
        while not run.over:
            try:  # not in a coroutine of `BatchRun`, which would be one more object of every batch
                await run.waiter()
            except asyncio.CancelledError as exc:
                run.interrupt(exc)
        run.raise_failure()
    except BaseException as exc:
        if run.source_failed:
            results.sort(key=BY_INDEX)
            attach_results(exc, BatchResults(results, name=name, batch=run.batch))
        if run.interruption is None or not isinstance(exc, asyncio.CancelledError):
            del results, run, built  # the traceback would keep them, in a cycle if a result has this error
            raise
    collected = _in_order(results, run)
    if run.interruption is not None:
        await run.raise_if_interrupted(collected)
    return collected


def _in_order(results: list[BatchResult], run: BatchRun) -> BatchResults:
    batch = run.batch
    results.sort(key=BY_INDEX)
    wall_time = (batch.finished_ns - batch.started_ns) / 1e9
    if run.unstarted is not None:
        return PartialResults(results, run.unstarted, name=batch.name, wall_time=wall_time, batch=batch)
    return BatchResults(results, name=batch.name, wall_time=wall_time, batch=batch)
