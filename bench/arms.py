"""Who is measured: every arm runs the same items in the way that its documentation says, and gives their outputs."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from bench.nodes import flowrt_node, nadoo_node
from bench.workloads import Workload

__all__ = ["ARMS", "Arm", "Inputs", "arm", "why_missing"]

Inputs = list[dict[str, int]]
Run = Callable[[Workload, Inputs], Awaitable[list[int]]]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of running the items.

    Args:
        name: For the command line.
        title: For tables.
        run: Runs a workload's items and gives their outputs in the order of the inputs.
        needs: The modules that must be installed.
        delivers: Whether it sends a span for each item to the collector that `BENCH_COLLECTOR` names.
    """

    name: str
    title: str
    run: Run
    needs: tuple[str, ...] = ()
    delivers: bool = False

    @property
    def missing(self) -> str | None:
        """Why it cannot run here, or None where it can."""
        return why_missing(self.needs)


def why_missing(modules: Iterable[str]) -> str | None:
    """Which of the modules is not installed, in words, or None where all are."""
    return next((f"{module} is not installed" for module in modules if not _installed(module)), None)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False


def _collector() -> str:
    return os.environ["BENCH_COLLECTOR"]


# -- peers ---------------------------------------------------------------------------------------------------------


async def _floor(work: Workload, inputs: Inputs) -> list[int]:
    """As little as there can be: a fixed number of workers on one iterator."""
    sleep_s, source = work.sleep_s, iter(enumerate(inputs))
    outputs: list[Any] = [None] * len(inputs)

    async def worker() -> None:
        for index, item in source:
            if sleep_s is not None:
                await asyncio.sleep(sleep_s)
            outputs[index] = item["x"]

    await asyncio.gather(*(worker() for _ in range(work.concurrency)))
    return outputs


async def _gather(work: Workload, inputs: Inputs) -> list[int]:
    sleep_s, semaphore = work.sleep_s, asyncio.Semaphore(work.concurrency)

    async def one(item: dict[str, int]) -> int:
        async with semaphore:
            if sleep_s is not None:
                await asyncio.sleep(sleep_s)
            return item["x"]

    return await asyncio.gather(*(one(item) for item in inputs))


async def _nadoo(work: Workload, inputs: Inputs) -> list[int]:
    import nadoo_flow

    processor = nadoo_flow.BatchProcessor(nadoo_node(work.sleep_s), max_concurrency=work.concurrency)
    results: Any = await processor.batch(inputs, nadoo_flow.WorkflowContext())
    return [result.output for result in results]


# -- flowrt --------------------------------------------------------------------------------------------------------


async def _flowrt(work: Workload, inputs: Inputs, telemetry: Any) -> list[int]:
    from flowrt import BatchProcessor

    results = await BatchProcessor(flowrt_node(work.sleep_s), work.concurrency, telemetry=telemetry).batch(inputs)
    return [result.output for result in results]


async def _bare(work: Workload, inputs: Inputs) -> list[int]:
    return await _flowrt(work, inputs, telemetry=False)


async def _metrics(work: Workload, inputs: Inputs) -> list[int]:
    from flowrt import Telemetry

    return await _flowrt(work, inputs, telemetry=Telemetry(tracing=False, logs=False))


async def _default(work: Workload, inputs: Inputs) -> list[int]:
    """All of it, in a process that has set up neither traces nor logs: what one gets without asking for anything."""
    return await _flowrt(work, inputs, telemetry=True)


async def _delivered(work: Workload, inputs: Inputs) -> list[int]:
    """Everything on: metrics, log events at INFO, and a span for each item, delivered when this returns."""
    from flowrt import Runtime

    async with Runtime(service_name="bench", otlp_endpoint=_collector(), log_format="json", log_level="INFO"):
        return await _flowrt(work, inputs, telemetry=True)


# -- by hand -------------------------------------------------------------------------------------------------------


async def _by_hand(work: Workload, inputs: Inputs) -> list[int]:
    """The same telemetry as teams write it: gather, Semaphore, SDK spans over OTLP, prometheus_client, structlog."""
    import time

    import structlog
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{_collector()}/v1/traces")))
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
    sleep_s, semaphore = work.sleep_s, asyncio.Semaphore(work.concurrency)

    async def one(index: int, item: dict[str, int]) -> int:
        async with semaphore:
            started = time.perf_counter()
            inflight.inc()
            with tracer.start_as_current_span("process", attributes={"item.index": index}):
                if sleep_s is not None:
                    await asyncio.sleep(sleep_s)
                output = item["x"]
            inflight.dec()
            done.inc()
            elapsed_s = time.perf_counter() - started
            duration.observe(elapsed_s)
            log.info("item.completed", item_index=index, duration_s=elapsed_s)
            return output

    outputs = await asyncio.gather(*(one(index, item) for index, item in enumerate(inputs)))
    provider.force_flush()
    provider.shutdown()
    return outputs


ARMS: Final = (
    Arm("floor", "floor: bare workers on one iterator", _floor),
    Arm("nadoo", "nadoo-flow-core 0.1.0 `batch`", _nadoo, needs=("nadoo_flow",)),
    Arm("gather", "`gather` + `Semaphore`", _gather),
    Arm("flowrt-bare", "flowrt, telemetry off", _bare),
    Arm("flowrt-metrics", "flowrt, metrics", _metrics),
    Arm("flowrt-default", "flowrt as it is, with no tracer provider", _default),
    Arm(
        "flowrt-delivered",
        "flowrt, everything on, spans sent over OTLP",
        _delivered,
        needs=("opentelemetry.exporter.otlp.proto.common", "opentelemetry.proto"),
        delivers=True,
    ),
    Arm(
        "by-hand",
        "`gather` with SDK spans, prometheus_client, structlog by hand",
        _by_hand,
        needs=("opentelemetry.exporter.otlp.proto.http",),
        delivers=True,
    ),
)


def arm(name: str) -> Arm:
    """The arm of that name.

    Raises:
        KeyError: There is none.
    """
    return {each.name: each for each in ARMS}[name]
