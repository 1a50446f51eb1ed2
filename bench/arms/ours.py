"""flowrt, and the reference package."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from bench.arms.base import Load
from bench.nodes import flowrt_node, nadoo_node

__all__ = ["bare", "default", "delivered", "journaled", "metrics", "nadoo"]


async def nadoo(load: Load) -> list[int]:
    """nadoo-flow-core's `batch`."""
    import nadoo_flow

    node = nadoo_node(load.job, load.work.attempts)
    processor = nadoo_flow.BatchProcessor(node, max_concurrency=load.concurrency)
    results: Any = await processor.batch(load.inputs, nadoo_flow.WorkflowContext())
    outputs: list[Any] = [result.output for result in results]
    return outputs


async def _flowrt(load: Load, telemetry: Any, journal: Path | None = None) -> list[int]:
    from flowrt import BatchProcessor, RetryPolicy

    attempts = load.work.attempts
    retry = RetryPolicy(attempts, base=0.001, cap=0.001, budget=None) if attempts > 1 else None
    processor = BatchProcessor(
        flowrt_node(load.job), load.concurrency, retry=retry, telemetry=telemetry, journal=journal
    )
    results = await processor.batch(load.inputs)
    outputs: list[Any] = [result.output for result in results]
    return outputs


async def bare(load: Load) -> list[int]:
    """No telemetry."""
    return await _flowrt(load, telemetry=False)


async def journaled(load: Load) -> list[int]:
    """No telemetry, and every item on the disk before its result is delivered."""
    with tempfile.TemporaryDirectory(prefix="flowrt-bench-") as folder:
        return await _flowrt(load, telemetry=False, journal=Path(folder) / "run.journal")


async def metrics(load: Load) -> list[int]:
    """Metrics alone."""
    from flowrt import Telemetry

    return await _flowrt(load, telemetry=Telemetry(tracing=False, logs=False))


async def default(load: Load) -> list[int]:
    """Default telemetry, in a process with neither traces nor logs set up."""
    return await _flowrt(load, telemetry=True)


async def delivered(load: Load) -> list[int]:
    """Everything on: metrics, log events at INFO, and a span for each item, delivered before it returns."""
    from flowrt import Runtime

    endpoint = os.environ["BENCH_COLLECTOR"]
    async with Runtime(service_name="bench", otlp_endpoint=endpoint, log_format="json", log_level="INFO"):
        return await _flowrt(load, telemetry=True)
