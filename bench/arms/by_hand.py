"""Telemetry as teams write it: SDK spans over OTLP, prometheus_client, structlog, around whatever runs the items."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bench.jobs import Item, Job

__all__ = ["by_hand"]


@asynccontextmanager
async def by_hand(endpoint: str) -> AsyncIterator[Callable[[Job], Job]]:
    """What wraps a job in telemetry; when the block ends, all spans have been sent or lost.

    Args:
        endpoint: The collector's.
    """
    import structlog
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")))
    tracer, registry = provider.get_tracer("by hand"), CollectorRegistry()
    done = Counter("items", "Items.", ["status"], registry=registry).labels("ok")
    inflight = Gauge("inflight", "In flight.", registry=registry)
    duration = Histogram("duration", "Duration.", registry=registry)
    log = structlog.wrap_logger(
        structlog.BytesLogger(open(os.devnull, "wb")),  # noqa: SIM115, ASYNC230, PTH123  # it lives as long as we do
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            lambda *event: structlog.processors.JSONRenderer()(*event).encode(),  # type: ignore[union-attr]
        ],
    ).bind(batch="by hand")

    def observed(job: Job) -> Job:
        async def one(item: Item) -> int:
            started = time.perf_counter()
            inflight.inc()
            with tracer.start_as_current_span("process", attributes={"item.index": item["x"]}):
                output = await job(item)
            inflight.dec()
            done.inc()
            elapsed_s = time.perf_counter() - started
            duration.observe(elapsed_s)
            log.info("item.completed", item_index=item["x"], duration_s=elapsed_s)
            return output

        return one

    try:
        yield observed
    finally:
        provider.force_flush()
        provider.shutdown()
