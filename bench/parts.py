"""Cost of each part of the telemetry: the same batch with more and more parts on, and the differences."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final, Literal, NamedTuple
from unittest.mock import patch

from bench.arms.base import Load
from bench.arms.plain import floor
from bench.collector import collector
from bench.jobs import Item, Job, job_of
from bench.machine import about, last_core
from bench.measure import run_module
from bench.nodes import flowrt_node
from bench.pace import pacing
from bench.prices import sdk_provider
from bench.workloads import workload

__all__ = ["DIFFERENCES", "PARTS", "Part", "main", "measure_parts", "uninstrumented"]

_NOOP: Final = workload("noop")
_WARM_UP: Final = 2_000


class Part(NamedTuple):
    """One way of running the batch.

    Attributes:
        name: Name in the JSON.
        title: Title in tables.
        run: Runs the items.
    """

    name: str
    title: str
    run: Callable[[Load], Awaitable[Any]]


async def _batch(load: Load, telemetry: Any) -> None:
    from flowrt import BatchProcessor

    await BatchProcessor(flowrt_node(load.job), load.concurrency, telemetry=telemetry).batch(load.inputs)


async def _bare(load: Load) -> None:
    await _batch(load, telemetry=False)


class _Uninstrumented(ast.NodeTransformer):
    """Removes every test for an instrument and every call of one from the source of the engine."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if _of_instruments(node.test) else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Call) and _of_instruments(node.value.func) else node


def _of_instruments(node: ast.AST) -> bool:
    names = {each.id if isinstance(each, ast.Name) else getattr(each, "attr", "") for each in ast.walk(node)}
    return bool({"dispatch", "_dispatch"} & names)


def uninstrumented(source: str) -> str:
    """Source of a module of the engine without its calls of instruments."""
    return ast.unparse(ast.fix_missing_locations(_Uninstrumented().visit(ast.parse(source))))


async def _no_seam(load: Load) -> None:
    """Run the batch on an engine without instruments."""
    from flowrt.engine import cancellation, outcome, worker, worker_pool

    with ExitStack() as patches:
        for module, user, name in ((worker, worker_pool, "Worker"), (outcome, cancellation, "Finisher")):
            namespace = dict(vars(module))
            exec(compile(uninstrumented(inspect.getsource(module)), "uninstrumented", "exec"), namespace)  # noqa: S102  # our own
            patches.enter_context(patch.object(user, name, namespace[name]))
        await _batch(load, telemetry=False)


async def _ledger(load: Load) -> None:
    from flowrt import Telemetry

    await _batch(load, Telemetry(metrics=False, tracing=False, logs=False))


async def _metrics(load: Load) -> None:
    from flowrt import Telemetry

    await _batch(load, Telemetry(tracing=False, logs=False))


async def _logs(load: Load) -> None:
    from flowrt import Runtime, Telemetry

    async with Runtime(log_format="json", log_level="INFO"):
        await _batch(load, Telemetry(metrics=False, tracing=False))


async def _recorded(load: Load) -> None:
    from flowrt import BatchProcessor

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = f"{folder}/run.parquet"
        node = flowrt_node(load.job)
        await BatchProcessor(node, load.concurrency, telemetry=False, record=file).batch(load.inputs)


async def _context(load: Load) -> None:
    """Make a span current by hand, with OpenTelemetry's public functions."""
    from opentelemetry import context, trace

    span = trace.NonRecordingSpan(trace.SpanContext(1, 1, is_remote=False))
    job = load.job

    async def within(item: Item) -> int:
        token = context.attach(trace.set_span_in_context(span))
        try:
            return await job(item)
        finally:
            context.detach(token)

    await _batch(load._replace(job=within), telemetry=False)


async def _spans(load: Load) -> None:
    """Make spans and make them current, with no exporter."""
    from flowrt import Runtime

    async with Runtime(service_name="bench", log_format="json", log_level="ERROR"):
        await _traced(load)


async def _traced(load: Load) -> None:
    from flowrt import Telemetry

    await _batch(load, Telemetry(metrics=False, logs=False))


async def _handed_over(load: Load) -> None:
    """Put spans into a pipeline that holds all of them and exports none."""
    many = 10 * len(load.inputs)
    await _into(load, _pipeline(lambda _: b"", most_spans=many, batch_spans=many, delay_s=3_600.0))


async def _encoded(load: Load) -> None:
    """Encode spans in the pipeline's thread, and drop the requests."""
    from opentelemetry import trace

    from flowrt.telemetry.tracing.otlp_encoding import encode_spans

    provider: Any = trace.get_tracer_provider  # a Runtime sets it when the batch starts
    pipeline = _pipeline(lambda spans: encode_spans(spans, lambda _: b"", provider().resource))
    await _into(load, pipeline)
    pipeline.close(60.0)


def _pipeline(encode: Callable[[Sequence[Any]], bytes], **settings: Any) -> Any:
    from flowrt.telemetry.otlp import SpanPipeline
    from flowrt.telemetry.otlp.transport import Outcome, Transport

    class Nowhere(Transport):
        timeout_s, where = 1.0, "nowhere"

        def pack(self, payloads: Sequence[bytes]) -> Sequence[bytes]:
            return payloads

        def send(self, body: Sequence[bytes]) -> Outcome:
            return Outcome(taken=True)

        def abort(self) -> None:
            """Nothing is active."""

        def close(self) -> None:
            """Nothing is open."""

        def forget(self) -> None:
            """Nothing is open."""

    return SpanPipeline(Nowhere(), encode, takes_plain=True, **settings)


async def _into(load: Load, target: Any) -> None:
    from opentelemetry import trace

    from flowrt import Runtime

    async with Runtime(service_name="bench", log_format="json", log_level="ERROR"):
        provider: Any = trace.get_tracer_provider()
        provider.target = target
        try:
            await _traced(load)
        finally:
            provider.target = None


async def _sent(load: Load) -> None:
    from flowrt import Runtime

    endpoint = os.environ["BENCH_COLLECTOR"]
    async with Runtime(service_name="bench", otlp_endpoint=endpoint, log_format="json", log_level="ERROR"):
        await _traced(load)


async def _all(load: Load) -> None:
    await _everything(load)


async def _everything(load: Load, telemetry: Any = True, log_level: Literal["DEBUG", "INFO"] = "INFO") -> None:
    from flowrt import Runtime

    endpoint = os.environ["BENCH_COLLECTOR"]
    async with Runtime(service_name="bench", otlp_endpoint=endpoint, log_format="json", log_level=log_level):
        await _batch(load, telemetry)


async def _all_lines(load: Load) -> None:
    """Log a line for each item at DEBUG."""
    from flowrt import Telemetry

    await _everything(load, Telemetry(item_events=True), log_level="DEBUG")


async def _head_sampled(load: Load) -> None:
    """Sample one trace in a hundred by its id; flowrt asks the sampler for every item."""
    os.environ |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    await _everything(load)


async def _tail_sampled(load: Load) -> None:
    from flowrt import TailSampling, Telemetry

    await _everything(load, Telemetry(tail_sampling=TailSampling(share=0.01)))


def _by_hand(job: Job, provider: Any) -> Job:
    """The job in a span by the SDK's start_span and end, with the attributes and the link of flowrt's spans.

    The span is not made current and takes the SDK's own times: the least code that a node can write.
    """
    from opentelemetry.trace import Link

    tracer = provider.get_tracer("bench")
    batch = tracer.start_span("batch bench")
    batch.end()
    links = [Link(batch.get_span_context())]
    common = {"flowrt.batch.name": "bench", "flowrt.batch.id": "0" * 32, "flowrt.node.id": "bench"}

    async def within(item: Item) -> int:
        attributes = {**common, "flowrt.item.index": item["x"], "flowrt.item.queue_wait": 0.0}
        span = tracer.start_span("process bench", attributes=attributes, links=links)
        output = await job(item)
        span.end()
        return output

    return within


async def _sdk_spans(load: Load) -> None:
    """Make the span in the node, on the same engine: only its maker differs."""
    provider = sdk_provider()
    await _bare(load._replace(job=_by_hand(load.job, provider)))
    provider.force_flush()


async def _sdk_floor(load: Load) -> None:
    """The same on the floor: with next to no other code, the SDK stays in the processor's caches."""
    provider = sdk_provider()
    await floor(load._replace(job=_by_hand(load.job, provider)))
    provider.force_flush()


async def _own_provider(load: Load) -> None:
    from opentelemetry import trace

    provider: Any = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):  # a process sets its provider once
        provider = sdk_provider()
        trace.set_tracer_provider(provider)
    await _traced(load)
    provider.force_flush()


PARTS: Final = (
    Part("floor", "floor: bare workers on one iterator", floor),
    Part("bare", "flowrt, telemetry off", _bare),
    Part("no-seam", "the same without the engine's tests for instruments", _no_seam),
    Part("ledger", "with the ledger alone", _ledger),
    Part("metrics", "with metrics", _metrics),
    Part("logs", "with log events at INFO", _logs),
    Part("recorded", "with the flight recorder, its file in place", _recorded),
    Part("context", "with a span made current by hand", _context),
    Part("spans", "with spans, without an exporter", _spans),
    Part("handed-over", "with spans handed over", _handed_over),
    Part("encoded", "with spans encoded in a thread", _encoded),
    Part("sent", "with spans sent to a collector", _sent),
    Part("all", "everything on, spans sent", _all),
    Part("all-head", "the same, a head sampler that takes one span in a hundred", _head_sampled),
    Part(
        "all-tail", "the same, tail sampling that keeps one span in a hundred of those without incident", _tail_sampled
    ),
    Part("all-lines", "everything on, and at DEBUG a line of JSON for each item", _all_lines),
    Part("sdk-floor", "the floor with the SDK's start_span and end by hand, BatchSpanProcessor", _sdk_floor),
    Part("sdk-spans", "flowrt, telemetry off, with the same by hand in the node", _sdk_spans),
    Part("own-provider", "flowrt through such a provider of the service's own", _own_provider),
)

DIFFERENCES: Final = (
    ("engine", "bare", "floor"),
    ("ledger", "ledger", "bare"),
    ("metrics and ledger", "metrics", "bare"),
    ("log events at INFO", "logs", "bare"),
    ("flight recorder, until its file is in place", "recorded", "bare"),
    ("context (the span made current)", "context", "bare"),
    ("span", "spans", "context"),
    ("hand-over", "handed-over", "spans"),
    ("encode", "encoded", "handed-over"),
    ("send", "sent", "encoded"),
    ("a line of JSON for each item, at DEBUG", "all-lines", "all"),
    ("the SDK's start_span and end, on the floor", "sdk-floor", "floor"),
    ("the same in a node of flowrt", "sdk-spans", "bare"),
    ("flowrt's spans through such a provider", "own-provider", "bare"),
)
"""Cost of each part: its name, and the two ways of running whose difference it is."""


def measure_parts(
    parts: Sequence[Part],
    rounds: int,
    cut: int,
    say: Callable[[str], None],
    run: Callable[[str, int, str], tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Measure every way of running, each time in a fresh process, round by round.

    Args:
        parts: Ways of running, in the order of their turns.
        rounds: Runs of each.
        cut: Divisor of the number of items.
        say: Reports the progress.
        run: Runs one with a number of items, given the collector's URL; returns microseconds an item and the machine's
            pace meanwhile. In a process of its own by default.

    Returns:
        The JSON: microseconds an item of every round, and the machine's pace in each.

    Raises:
        BenchError: A run failed.
    """
    run = run or _in_a_process
    items = _NOOP.items // cut
    samples: dict[str, list[float]] = {part.name: [] for part in parts}
    paces: dict[str, list[float]] = {part.name: [] for part in parts}
    with collector(not_on=last_core()) as url:
        for number in range(rounds):
            say(f"parts: round {number + 1} of {rounds}")
            for part in parts:
                us, pace = run(part.name, items, url)
                samples[part.name].append(us)
                paces[part.name].append(pace)
    measured = {"machine": about(), "rounds": rounds, "missing": {}, "items": items}
    return measured | {"parts_us": samples, "parts_pace_us": paces}


def _in_a_process(name: str, items: int, url: str) -> tuple[float, float]:
    us, pace = run_module("bench.parts", [name, str(items)], f"part {name}", {"BENCH_COLLECTOR": url})
    return us, pace


def main(name: str, items: int) -> tuple[float, float]:
    """Run one in this process, pinned.

    Args:
        name: Name of the way of running.
        items: Number of items.

    Returns:
        Microseconds an item, and the machine's pace meanwhile in microseconds.
    """
    import uvloop

    if (core := last_core()) is not None:
        os.sched_setaffinity(0, {core})
    part = {each.name: each for each in PARTS}[name]

    async def timed(many: int) -> float:
        work = _NOOP.of(many)
        inputs = [{"x": number} for number in range(1, many + 1)]
        async with job_of(work) as job:
            started = time.perf_counter()
            await part.run(Load(work, job, inputs))
            return (time.perf_counter() - started) / many * 1e6

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(timed(_WARM_UP))
        with pacing() as pace:
            us = runner.run(timed(items))
        return us - pace.own_s / items * 1e6, pace.us


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(main(sys.argv[1], int(sys.argv[2])))}\n")
