"""Spans made by the process's tracer provider."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from flowrt import BatchProcessor, BatchResult, Instrument, RetryPolicy, Telemetry
from flowrt.model import BatchRecord, ItemRecord
from flowrt.telemetry.redaction import redact
from flowrt.telemetry.tracing.exceptions import set_failed
from flowrt.telemetry.tracing.setup import make_provider

Run = Callable[[Any], Any]
Spans = Callable[[], list[ReadableSpan]]


async def fails_on_three(x: int) -> int:
    trace.get_current_span().set_attribute("mine", x)
    await asyncio.sleep(0)
    if x == 3:
        raise ValueError("three")
    return x


def split(spans: list[ReadableSpan]) -> tuple[ReadableSpan, dict[int, ReadableSpan]]:
    (batch,) = [span for span in spans if span.name.startswith("batch ")]
    items = {
        s.attributes["flowrt.item.index"]: s for s in spans if s.attributes and "flowrt.item.index" in s.attributes
    }
    return batch, items


def test_item_spans_are_children_of_the_batch_span(run: Run, spans: Spans) -> None:
    results = run(BatchProcessor(fails_on_three, 2, name="things").batch(range(6)))
    batch, items = split(spans())
    assert len(items) == 6
    assert batch.name == "batch things"
    assert batch.attributes["flowrt.batch.items.expected"] == 6
    assert batch.attributes["flowrt.batch.items.ok"] == 5
    assert batch.attributes["flowrt.batch.items.failed"] == 1
    assert batch.attributes["flowrt.concurrency.limit"] == 2
    for index, span in items.items():
        assert span.name == "process fails_on_three"
        assert span.kind is SpanKind.INTERNAL
        assert span.parent.span_id == batch.context.span_id
        assert span.attributes["mine"] == index, "the item's span is the current one inside the node"
        assert span.attributes["flowrt.batch.name"] == "things"
        assert results[index].trace_id == f"{span.context.trace_id:032x}"
        assert results[index].span_id == f"{span.context.span_id:016x}"
        assert batch.start_time <= span.start_time <= span.end_time <= batch.end_time
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(results[index].execution_time)


def test_failure_sets_the_span_status_and_success_leaves_it_unset(run: Run, spans: Spans) -> None:
    run(BatchProcessor(fails_on_three).batch(range(6)))
    _, items = split(spans())
    assert items[3].status.status_code is StatusCode.ERROR
    assert items[3].status.description == "three"
    assert items[3].attributes["error.type"] == "ValueError"
    assert [event.name for event in items[3].events] == ["exception"]
    assert items[2].status.status_code is StatusCode.UNSET
    assert "error.type" not in items[2].attributes


def test_span_of_a_cached_item_says_so_and_no_other_does(run: Run, spans: Spans) -> None:
    run(BatchProcessor(fails_on_three, 1, cache=True).batch([1, 2, 1, 3, 3]))
    _, items = split(spans())
    assert {index: span.attributes.get("flowrt.item.cached") for index, span in items.items()} == {
        0: None, 1: None, 2: True, 3: None, 4: None,
    }  # fmt: skip


def test_spans_opened_by_the_node_nest_under_the_item_span(run: Run, spans: Spans) -> None:
    async def calls(x: int) -> None:
        with trace.get_tracer("client").start_as_current_span(f"GET {x}"):
            await asyncio.sleep(0.001)

    run(BatchProcessor(calls, 3).batch(range(5)))
    _, items = split(spans())
    children = {span.name: span for span in spans() if span.name.startswith("GET")}
    assert {name: span.parent.span_id for name, span in children.items()} == {
        f"GET {index}": span.context.span_id for index, span in items.items()
    }


def test_node_in_a_thread_has_its_span_current(run: Run, spans: Spans) -> None:
    def blocking(x: int) -> None:
        trace.get_current_span().set_attribute("thread", x)

    run(BatchProcessor(blocking, 3).batch(range(5)))
    _, items = split(spans())
    assert {index: span.attributes["thread"] for index, span in items.items()} == {i: i for i in range(5)}


@pytest.mark.parametrize(
    ("shape", "count", "sized", "nested"),
    [
        ("auto", 1_000, True, True),
        ("auto", 1_001, True, False),
        ("auto", 3, False, False),
        ("nested", 1_001, True, True),
        ("linked", 2, True, False),
    ],
)
def test_large_and_unsized_batches_are_linked(
    shape: Any, count: int, sized: bool, nested: bool, run_virtual: Run, spans: Spans
) -> None:
    inputs = [0] * count if sized else iter([0] * count)
    run_virtual(BatchProcessor(asyncio.sleep, 50, telemetry=Telemetry(trace_shape=shape)).batch(inputs))
    batch, items = split(spans())
    assert sorted(items) == list(range(count))
    for span in items.values():
        if nested:
            assert span.context.trace_id == batch.context.trace_id
        else:
            assert span.parent is None
            assert [link.context.span_id for link in span.links] == [batch.context.span_id]
    if not nested:
        assert len({span.context.trace_id for span in items.values()}) == len(items)


def test_batch_joins_the_callers_trace_and_passes_its_baggage(run: Run, spans: Spans) -> None:
    seen: list[object] = []

    async def node(_: int) -> None:
        seen.append(baggage.get_baggage("tenant"))

    async def main() -> None:
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        with trace.get_tracer("app").start_as_current_span("request"):
            await BatchProcessor(node, telemetry=Telemetry(trace_shape="linked")).batch([1, 2])
        context.detach(token)

    run(main())
    batch, _ = split(spans())
    (request,) = [span for span in spans() if span.name == "request"]
    assert batch.parent.span_id == request.context.span_id
    assert seen == ["acme", "acme"]


def test_callers_current_span_is_unchanged(run: Run, spans: Spans) -> None:
    async def main() -> None:
        with trace.get_tracer("app").start_as_current_span("request") as request:
            async for _ in BatchProcessor(fails_on_three).batch_as_completed(range(10)):
                assert trace.get_current_span() is request
                break
            assert trace.get_current_span() is request

    run(main())


def test_abandoned_stream_ends_all_spans_and_detaches(run: Run, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async for _ in BatchProcessor(asyncio.sleep, 5).batch_as_completed([0.001] + [30] * 20):
            break
        await asyncio.sleep(0.01)

    run(main())
    batch, items = split(spans())
    assert batch.end_time
    assert 5 <= len(items) <= 6
    assert "detach" not in caplog.text


def test_timed_out_and_cancelled_items_have_an_error_status(run_virtual: Run, spans: Spans) -> None:
    run_virtual(BatchProcessor(asyncio.sleep, 2, item_timeout=1, batch_timeout=3).batch([2, 0.5] + [0.9] * 9))
    _, items = split(spans())
    assert len(items) == 11
    assert items[0].attributes["error.type"] == "TimeoutError"
    assert items[10].attributes["error.type"] == "CancelledError"
    assert "not started" in items[10].status.description


def test_span_of_a_batch_ended_before_its_input_says_so(run_virtual: Run, spans: Spans) -> None:
    async def source() -> AsyncIterator[float]:
        yield 0.5
        await asyncio.sleep(60)

    run_virtual(BatchProcessor(asyncio.sleep, 2, batch_timeout=3).batch(source()))
    batch, _ = split(spans())
    assert "was ended after 1 input, before its input had ended (the batch took longer" in batch.status.description


def test_lone_surrogates_are_exported_as_valid_utf8(run: Run, spans: Spans) -> None:
    async def fails(_: int) -> None:
        raise ValueError("lone \udc80 surrogate\nand a line")

    run(BatchProcessor(fails, name="na\udc80me").batch([1]))
    batch, items = split(spans())
    assert "surrogate\nand a line" in items[0].status.description.encode("utf-8").decode()
    assert batch.name.encode("utf-8").startswith(b"batch na")


def test_exception_whose_str_raises_gives_one_failed_span(run: Run, spans: Spans) -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no message")

    async def fails(_: int) -> None:
        raise OddError

    results = run(BatchProcessor(fails).batch([1, 2]))
    _, items = split(spans())
    assert [span.attributes["error.type"] for span in items.values()] == ["OddError", "OddError"]
    assert results[0].error


async def leaks(_: int) -> None:
    try:
        raise KeyError("password=canary")
    except KeyError as exc:
        raise ConnectionError("401 for https://me:canary@h/v1?api_key=canary") from exc


@pytest.mark.parametrize("retry", [None, RetryPolicy(2, base=0.001)])
def test_secret_in_an_exception_is_redacted_on_spans(run: Run, spans: Spans, retry: RetryPolicy | None) -> None:
    (result,) = run(BatchProcessor(leaks, retry=retry).batch([1]))
    assert "canary" in result.error, "results keep the text"
    failed = [span for span in spans() if span.events]
    assert len(failed) == (1 if retry is None else 3)
    assert not any("canary" in str(span.to_json()).partition('"resource"')[0] for span in spans())
    attributes = dict(failed[-1].events[0].attributes or {})
    assert attributes["exception.type"] == "ConnectionError"
    assert attributes["exception.message"] == "401 for https://[redacted]@h/v1?[redacted]"
    assert "KeyError" in str(attributes["exception.stacktrace"])


def test_redaction_of_spans_is_a_setting_and_cannot_fail_an_item(run: Run, spans: Spans) -> None:
    def broken(text: str) -> str:
        raise RuntimeError(text)

    for function in (None, lambda _: "short", broken):
        run(BatchProcessor(leaks, telemetry=Telemetry(redact=function)).batch([1]))
    texts = [span.status.description for span in spans() if span.name == "process leaks"]
    assert texts == ["401 for https://me:canary@h/v1?api_key=canary", "short", "[redact() failed]"]
    with pytest.raises(TypeError, match="redact must be a function of a text"):
        Telemetry(redact="all")  # type: ignore[arg-type]


class VendorSpan(trace.NonRecordingSpan):
    """Vendor's span whose `record_exception` does more than add an event."""

    def __init__(self) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self.recorded: dict[str, Any] = {}

    def record_exception(self, exception: BaseException, attributes: Any = None, *args: Any, **more: Any) -> None:
        self.recorded = {"exception": exception, **attributes}


def test_exception_is_recorded_by_the_method_of_a_vendors_span() -> None:
    item, span = BatchResult(0, None, success=False), VendorSpan()
    item.exception, item.error = ValueError("password=canary"), "password=canary"
    set_failed(span, item, redact)  # type: ignore[arg-type]
    assert span.recorded["exception"] is item.exception
    assert span.recorded["exception.message"] == "password=[redacted]"


def test_nothing_is_traced_without_a_provider(run: Run) -> None:
    (result,) = run(BatchProcessor(fails_on_three).batch([1]))
    assert result.trace_id is None


class Watching(SpanProcessor):
    """Span processor that records what it sees at start and end."""

    def __init__(self) -> None:
        self.started: list[tuple[dict[str, Any], Any]] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started.append((dict(span.attributes), parent_context))

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def own_provider(monkeypatch: pytest.MonkeyPatch, sampler: Any = None) -> Watching:
    provider, watching = TracerProvider(sampler=sampler, shutdown_on_exit=False), Watching()
    provider.add_span_processor(watching)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return watching


@pytest.mark.parametrize("shape", ["nested", "linked"])
def test_span_processor_sees_attributes_and_context_at_the_start(
    shape: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = own_provider(monkeypatch)

    async def main() -> None:
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        await BatchProcessor(fails_on_three, 2, name="things", telemetry=Telemetry(trace_shape=shape)).batch(range(6))
        context.detach(token)

    run(main())
    (_, *items) = watching.started
    batch, ended = split(watching.ended)
    assert [attributes["flowrt.item.index"] for attributes, _ in items] == list(range(6))
    assert {attributes["flowrt.batch.name"] for attributes, _ in items} == {"things"}
    assert {baggage.get_baggage("tenant", parent) for _, parent in items} == {"acme"}
    parents = {trace.get_current_span(parent).get_span_context().span_id for _, parent in items}
    assert parents == {batch.context.span_id if shape == "nested" else trace.INVALID_SPAN_ID}
    assert len({span.context.span_id for span in ended.values()}) == 6


@pytest.mark.parametrize("shape", ["nested", "linked"])
def test_sampler_decides_per_item_on_its_attributes(shape: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Even(Sampler):
        def should_sample(self, parent_context: Any, trace_id: int, name: str, *rest: Any, **more: Any) -> Any:
            attributes = rest[1]
            keep = attributes.get("flowrt.item.index", 0) % 2 == 0
            return SamplingResult(Decision.RECORD_AND_SAMPLE if keep else Decision.DROP, attributes)

        def get_description(self) -> str:
            return "Even"

    watching = own_provider(monkeypatch, Even())
    kept: dict[int, bool] = {}

    async def node(x: int) -> str:
        await asyncio.sleep(0)
        current = trace.get_current_span()
        kept[x] = current.is_recording()
        return f"{current.get_span_context().span_id:016x}"

    results = run(BatchProcessor(node, 3, telemetry=Telemetry(trace_shape=shape)).batch(range(6)))
    _, items = split(watching.ended)
    assert sorted(items) == [0, 2, 4]
    assert kept == {x: x % 2 == 0 for x in range(6)}
    assert [result.span_id for result in results] == [result.output for result in results], (
        "unsampled ones have ids too"
    )


def test_span_left_current_by_a_node_does_not_outlive_its_item(run: Run, spans: Spans) -> None:
    seen: list[trace.Span] = []

    class After(Instrument):
        def item_started(self, item: ItemRecord) -> None:
            seen.append(trace.get_current_span())

    async def leaves_another_behind(x: int) -> int:
        if x == 1:
            context.attach(trace.set_span_in_context(trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)))
        return x

    run(BatchProcessor(leaves_another_behind, 1, instruments=[After()]).batch(range(3)))
    batch, items = split(spans())
    assert [span.get_span_context() for span in seen] == [items[index].context for index in range(3)]
    assert {span.parent.span_id for span in items.values()} == {batch.context.span_id}


@pytest.mark.usefixtures("spans")
@pytest.mark.parametrize("shared", [False, True])
def test_context_is_restored_after_each_item(shared: bool, run: Run) -> None:
    seen: list[Any] = []

    async def node(_: int) -> str:
        current = dict(context.get_current())
        seen.append(set(current))
        return format(trace.get_current_span().get_span_context().span_id, "016x")

    results = run(BatchProcessor(node, 1, task_per_item=not shared).batch(range(5)))
    assert [result.output for result in results] == [result.span_id for result in results]
    assert all(keys == seen[0] for keys in seen), "an item's context holds nothing of the one before"


def test_context_set_by_the_source_reaches_its_item(run: Run, spans: Spans) -> None:
    async def node(_: int) -> object:
        return baggage.get_baggage("row")

    def rows() -> Iterator[int]:
        for row in range(4):
            context.attach(baggage.set_baggage("row", str(row)))
            yield row

    for shape in ("nested", "linked"):
        telemetry = Telemetry(trace_shape=shape)  # type: ignore[arg-type]
        results = run(BatchProcessor(node, 1, telemetry=telemetry).batch(rows()))
        assert [result.output for result in results] == ["0", "1", "2", "3"]
    assert len({span.context.span_id for span in spans()}) == 10


ELSEWHERE = '''
import contextvars
from opentelemetry.context import Context

class Elsewhere:
    """Vendor's runtime context that counts calls and sets more than one variable."""
    calls = 0
    def __init__(self):
        self.values = contextvars.ContextVar("values", default=Context())
    def attach(self, context):
        Elsewhere.calls += 1
        return self.values.set(context)
    def get_current(self):
        return self.values.get()
    def detach(self, token):
        self.values.reset(token)
'''
ASKS = """
import asyncio, flowrt, elsewhere
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
provider = TracerProvider(shutdown_on_exit=False)
{ours}
async def node(x):
    return trace.get_current_span().get_span_context().span_id
async def main():
    before = elsewhere.Elsewhere.calls
    results = await flowrt.BatchProcessor(node, 2).batch(range(5))
    assert [int(r.span_id, 16) for r in results] == [r.output for r in results]
    print(elsewhere.Elsewhere.calls - before)
{run}
"""


@pytest.mark.parametrize(
    ("ours", "run"),
    [
        ("trace.set_tracer_provider(provider)", "asyncio.run(main())"),
        ("", "flowrt.run(main(), metrics_port=None, log_level='ERROR')"),
    ],
    ids=["the SDK's provider", "the runtime's provider"],
)
def test_vendor_runtime_context_is_used_for_every_item(ours: str, run: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    info = tmp_path / "elsewhere-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[opentelemetry_context]\nelsewhere = elsewhere:Elsewhere\n")
    environment = {
        **os.environ,
        "OTEL_PYTHON_CONTEXT": "elsewhere",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}",
    }
    done = subprocess.run(  # ours
        [sys.executable, "-c", ASKS.format(ours=ours, run=run)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 6, "one for the batch and one per item"


def test_disabled_provider_gives_no_ids(
    run: Run, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, object]]
) -> None:
    async def fails(_: int) -> None:
        raise ValueError

    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    (result,) = run(BatchProcessor(fails).batch([1]))
    assert (result.trace_id, result.span_id) == (None, None)
    (failed,) = [event for event in events if event["event"] == "item.failed"]
    assert "trace_id" not in failed


class KeepsSpan(Instrument):
    """Keeps a weak reference to the batch's span."""

    span: weakref.ref[Any] | None = None

    def batch_ended(self, batch: BatchRecord) -> None:
        self.span = weakref.ref(batch.span)


@pytest.mark.parametrize("make", [TracerProvider, lambda: make_provider(Resource({}))], ids=["SDK", "Runtime"])
@pytest.mark.parametrize("shape", ["nested", "linked"])
def test_span_of_an_ended_batch_is_in_no_reference_cycle(
    shape: Any, make: Callable[[], TracerProvider], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", make())
    kept = KeepsSpan()
    telemetry = Telemetry(metrics=False, trace_shape=shape)  # the metrics keep the latest batch of a name

    async def main() -> None:
        await BatchProcessor(fails_on_three, telemetry=telemetry, instruments=[kept]).batch(range(6))
        await asyncio.sleep(0)

    gc.collect()
    gc.disable()
    try:
        run(main())
        assert kept.span is not None
        assert kept.span() is None
    finally:
        gc.enable()
