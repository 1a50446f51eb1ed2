"""Cost of each public call for an item's span through a service's own provider."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from bench.machine import about, last_core
from bench.measure import run_module
from bench.pace import pacing

__all__ = ["PRICES", "Price", "main", "measure_prices", "sdk_provider"]

_ATTRIBUTES: Final[dict[str, Any]] = {
    "flowrt.batch.name": "bench",
    "flowrt.batch.id": "0" * 32,
    "flowrt.node.id": "bench",
    "flowrt.item.index": 1,
    "flowrt.item.queue_wait": 0.0,
}
_CALLS: Final = 10_000
_WARM_UP: Final = 1_000

Run = Callable[[], object]


class Price(NamedTuple):
    """One call, or a pair of calls.

    Attributes:
        name: Name in the JSON.
        title: Title in tables.
        prepare: Given the number of calls, makes a function that calls once.
    """

    name: str
    title: str
    prepare: Callable[[int], Run]


def sdk_provider(sampler: Any = None) -> Any:
    """A service's own provider: the SDK's, with a BatchSpanProcessor whose exporter drops all spans.

    Args:
        sampler: Sampler; None for the SDK's default.
    """
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    return provider


def _starting(*, linked: bool, sampler: Any = None) -> Run:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind

    tracer = sdk_provider(sampler).get_tracer("bench")
    batch = tracer.start_span("batch bench")
    links = [Link(batch.get_span_context())] if linked else None
    context, kind, now = Context(), SpanKind.INTERNAL, time.time_ns()
    return lambda: tracer.start_span("process bench", context, kind, {**_ATTRIBUTES}, links, now)


def _start(_: int) -> Run:
    return _starting(linked=False)


def _start_linked(_: int) -> Run:
    return _starting(linked=True)


def _start_unsampled(_: int) -> Run:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    return _starting(linked=True, sampler=ALWAYS_OFF)


def _end(calls: int) -> Run:
    start = _starting(linked=True)
    spans: list[Any] = [start() for _ in range(calls)]
    now = time.time_ns()
    return lambda: spans.pop().end(now)


def _wait(calls: int) -> Run:
    start = _starting(linked=True)
    spans: list[Any] = [start() for _ in range(calls)]
    return lambda: spans.pop().set_attribute("flowrt.item.held", 0.0)


def _sampler(_: int) -> Run:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    from opentelemetry.trace import SpanKind

    sampler, context = ParentBasedTraceIdRatio(1.0), Context()
    return lambda: sampler.should_sample(context, 1, "process bench", SpanKind.INTERNAL, _ATTRIBUTES, None)


def _ids(_: int) -> Run:
    span: Any = _starting(linked=True)()

    def ids() -> bytes:
        context = span.get_span_context()
        made: bytes = (context.trace_id << 64 | context.span_id).to_bytes(24, "big")
        return made

    return ids


def _current(_: int) -> Run:
    from opentelemetry.context import Context

    from flowrt.telemetry.tracing.context import SPAN_KEY, attach, reset

    values: dict[str, object] = {SPAN_KEY: _starting(linked=True)()}
    return lambda: reset(attach(Context(values)))


def _current_by_api(_: int) -> Run:
    from opentelemetry import context, trace

    span: Any = _starting(linked=True)()
    return lambda: context.detach(context.attach(trace.set_span_in_context(span)))


def _failure(calls: int) -> Run:
    from opentelemetry.trace import Status, StatusCode

    start = _starting(linked=True)
    spans: list[Any] = [start() for _ in range(calls)]
    try:
        raise ConnectionError("lost")
    except ConnectionError as exc:
        error = exc

    def fail() -> None:
        span = spans.pop()
        span.set_attribute("error.type", "ConnectionError")
        span.set_status(Status(StatusCode.ERROR, "lost"))
        span.record_exception(error)

    return fail


PRICES: Final = (
    Price("start", "`start_span`: name, kind, five attributes, start time", _start),
    Price("start-linked", "the same with the link to the batch span", _start_linked),
    Price("sampler", "of that, `should_sample` of a parent-based ratio sampler", _sampler),
    Price("ids", "`get_span_context`, and the ids for results and logs", _ids),
    Price("current", "the span made current, and back", _current),
    Price("current-api", "the same by `attach(set_span_in_context(...))` and `detach`", _current_by_api),
    Price("wait", "`set_attribute`: the queue wait, if the item may wait before it starts", _wait),
    Price("end", "`end`, with a BatchSpanProcessor", _end),
    Price("failure", "of a failed item: error type, status, `record_exception`", _failure),
    Price("unsampled", "`start_span` if the sampler drops the span, with the link", _start_unsampled),
)


def measure_prices(
    prices: Sequence[Price],
    rounds: int,
    cut: int,
    say: Callable[[str], None],
    run: Callable[[str, int], tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Measure each call, in a fresh process each time.

    Args:
        prices: Calls in the order of their turns.
        rounds: Runs of each.
        cut: Divisor of the number of calls.
        say: Reports the progress.
        run: Makes a number of calls; returns microseconds of one, and the machine's pace meanwhile.

    Returns:
        The JSON: microseconds of every round, and the machine's pace in each.

    Raises:
        BenchError: A run failed.
    """
    run = run or _in_a_process
    us: dict[str, list[float]] = {price.name: [] for price in prices}
    paces: dict[str, list[float]] = {price.name: [] for price in prices}
    for number in range(rounds):
        say(f"prices: round {number + 1} of {rounds}")
        for price in prices:
            one, pace = run(price.name, _CALLS // cut)
            us[price.name].append(one)
            paces[price.name].append(pace)
    return {"machine": about(), "rounds": rounds, "missing": {}, "prices_us": us, "prices_pace_us": paces}


def _in_a_process(name: str, calls: int) -> tuple[float, float]:
    one, pace = run_module("bench.prices", [name, str(calls)], f"price {name}")
    return one, pace


def main(name: str, calls: int) -> tuple[float, float]:
    """Make the calls in this process, pinned.

    Args:
        name: Name of the call.
        calls: Number of calls.

    Returns:
        Microseconds of one, and the machine's pace meanwhile.
    """
    if (core := last_core()) is not None:
        os.sched_setaffinity(0, {core})
    once = {each.name: each for each in PRICES}[name].prepare(_WARM_UP + calls)
    for _ in range(_WARM_UP):
        once()
    with pacing() as pace:
        started = time.process_time()
        for _ in range(calls):
            once()
        took_s = time.process_time() - started
    return (took_s - pace.own_s) / calls * 1e6, pace.us


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(main(sys.argv[1], int(sys.argv[2])))}\n")
    sys.stdout.flush()
    os._exit(0)  # the span processor's thread still has spans to drop
