"""Telemetry by hand, as teams write it: SDK spans over OTLP, prometheus_client and structlog around each item."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from bench.jobs import Item, Job

__all__ = ["ByHand"]


class ByHand:
    """Telemetry of one process.

    Args:
        endpoint: URL of the collector.
    """

    def __init__(self, endpoint: str) -> None:
        import structlog
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")))
        self._tracer, registry = self._provider.get_tracer("by hand"), CollectorRegistry()
        self._done = Counter("items", "Items.", ["status"], registry=registry).labels("ok")
        self._inflight = Gauge("inflight", "In flight.", registry=registry)
        self._duration = Histogram("duration", "Duration.", registry=registry)
        self._lines = open(os.devnull, "wb")  # noqa: SIM115, PTH123  # closed with this object
        self._log = structlog.wrap_logger(
            structlog.BytesLogger(self._lines),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                lambda *event: structlog.processors.JSONRenderer()(*event).encode(),  # type: ignore[union-attr]
            ],
        ).bind(batch="by hand")

    def around(self, job: Job) -> Job:
        """The job with telemetry.

        Args:
            job: The item's work, on a loop.
        """
        tracer, inflight, done, duration, log = self._tracer, self._inflight, self._done, self._duration, self._log

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

    def observe(self, number: int, call: Callable[[], int]) -> int:
        """Run an item in a thread, with telemetry.

        Args:
            number: Number of the item.
            call: Runs the item.
        """
        started = time.perf_counter()
        self._inflight.inc()
        with self._tracer.start_as_current_span("process", attributes={"item.index": number}):
            output = call()
        self._inflight.dec()
        self._done.inc()
        elapsed_s = time.perf_counter() - started
        self._duration.observe(elapsed_s)
        self._log.info("item.completed", item_index=number, duration_s=elapsed_s)
        return output

    def flush(self) -> None:
        """Send pending spans."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send pending spans and stop; spans that the collector has not taken are lost."""
        self._provider.force_flush()
        self._provider.shutdown()
        self._lines.close()
