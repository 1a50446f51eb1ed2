"""Differential test: a scripted batch gives the same OTLP payload through SDK spans and ours, except ids and times."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as official
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState

from flowrt import BaseNode, BatchProcessor, MapNode, NodeContext, NodeResult, RetryPolicy, Telemetry, WorkflowContext
from flowrt.telemetry.tracing.otlp_encoding import encode_spans
from flowrt.telemetry.tracing.setup import make_provider
from flowrt.telemetry.tracing.span import ItemSpan
from flowrt.testing import run_on, run_virtual
from flowrt.whatif.virtual_clock_loop import VirtualLoop
from tests.examples import examples

Script = Mapping[str, Any]

ELSEWHERE = SpanContext(0xFEED, 0xBEEF, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("v", "1")]))
NOTHING_SET: Mapping[str, str] = {}
UNSAMPLED = SpanContext(0xFEED, 0xBEEF, is_remote=True, trace_flags=TraceFlags(0))


class Payload:
    """Target that keeps the spans."""

    def __init__(self, *, takes_plain: bool = False) -> None:
        self.takes_plain = takes_plain
        self.spans: list[Any] = []
        self.append = self.put = self.spans.append

    def check_backlog(self, added: int) -> None:
        """Do nothing: there is no limit."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class Scripted(BaseNode):
    """Applies the item's script to its span."""

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        item: Script = node_context.input_data
        span: Any = trace.get_current_span()
        for key, value in item.get("attributes", {}).items():
            span.set_attribute(key, value)
        for name in item.get("events", ()):
            span.add_event(name, {"n": 1, "text": "ünïcode"})
        for name in item.get("children", ()):
            with trace.get_tracer("client", "3").start_as_current_span(name, kind=SpanKind.CLIENT) as child:
                child.set_attribute("baggage", str(baggage.get_baggage("who")))
                await asyncio.sleep(0)
        if "linked" in item:
            span.add_link(ELSEWHERE, {"why": "it was there"})
        ending = item.get("ending", "ok")
        if ending == "raises once" and node_context.attempt == 1:
            raise ConnectionError(item.get("error", "lost"))
        if ending == "raises twice":
            raise ConnectionError(item.get("error", "lost"))
        if ending == "raises":
            raise LookupError(item.get("error", "lost"))
        if ending == "fails":
            return NodeResult(False, error="no luck")
        if ending == "hangs":
            await asyncio.sleep(1_000)
        if ending == "ends its span":
            span.end()
        return NodeResult(True, item)


node = Scripted("node")


def payload_of(
    script: list[Script],
    *,
    ours: bool,
    plain: bool = True,
    parent: SpanContext | None = None,
    shape: Any = "auto",
    environment: Mapping[str, str] = NOTHING_SET,
    work: Any = node,
    retries: bool = True,
    batch_timeout: float | None = None,
    loop: Callable[[], asyncio.AbstractEventLoop] = VirtualLoop,
) -> ExportTraceServiceRequest:
    """Payload of a batch with the given script, in which each item may have a second attempt if there are retries.

    With `plain`, the target takes spans without additions in encoded form.
    """
    with patch.dict(os.environ, environment):
        provider = make_provider(Resource({"service.name": "tested"}))
    kept = Payload(takes_plain=plain)
    provider.target = kept
    if not ours:
        provider.add_span_processor(SpanProcessor())  # a processor makes the provider use SDK spans

    async def main() -> None:
        here = baggage.set_baggage("who", "me")
        if parent is not None:
            here = trace.set_span_in_context(trace.NonRecordingSpan(parent), here)
        token = context.attach(here)
        retry = RetryPolicy(attempts=2, base=1, on=OSError, budget=None) if retries else None
        processor = BatchProcessor(
            work,
            3,
            item_timeout=5,
            batch_timeout=batch_timeout,
            retry=retry,
            telemetry=Telemetry(trace_shape=shape, ledger=False),
        )
        with suppress(TimeoutError):
            await processor.batch(script)
        context.detach(token)

    with patch.object(trace, "_TRACER_PROVIDER", provider):
        run_on(loop, main())
    kinds = {type(span) for span in kept.spans if getattr(span, "name", "process node") == "process node"}
    assert kinds <= ({ItemSpan, bytes} if ours and plain else {ItemSpan if ours else ReadableSpan})
    payload = encode_spans(kept.spans, lambda others: official(others).SerializeToString(), provider.resource)
    return ExportTraceServiceRequest.FromString(payload)


def comparable(request: ExportTraceServiceRequest) -> list[tuple[Any, ...]]:
    """Spans without ids and times, each with its parent's name."""
    spans = [
        (resource_spans.resource, scope_spans.scope, span)
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]

    def key(span: Any) -> str:
        index = [pair.value.int_value for pair in span.attributes if pair.key == "flowrt.item.index"]
        return f"{span.name} {index}"

    by_id = {span.span_id: key(span) for _, _, span in spans}
    batch_trace = {span.trace_id for _, _, span in spans if span.name.startswith("batch ")}
    rows = []
    for resource, scope, span in spans:
        under = by_id.get(span.parent_span_id, span.parent_span_id.hex())
        roots = span.trace_id in batch_trace
        for link in span.links:
            if link.span_id != ELSEWHERE.span_id.to_bytes(8, "big"):  # the batch span, which may not be sampled
                link.attributes.add(key="stands for").value.string_value = by_id.get(link.span_id, "not sampled")
                link.span_id = link.trace_id = b""
        for event in span.events:
            event.time_unix_nano = 0
            for pair in event.attributes:
                if pair.key == "exception.stacktrace":
                    pair.value.string_value = pair.value.string_value.splitlines()[-1]
        for pair in span.attributes:
            if pair.key in ("flowrt.item.queue_wait", "flowrt.batch.id"):
                pair.value.Clear()
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        span.start_time_unix_nano = span.end_time_unix_nano = 0
        known = (ELSEWHERE.trace_id.to_bytes(16, "big") == span.trace_id, roots)
        span.trace_id = span.span_id = span.parent_span_id = b""
        rows.append((key(span), under, known, str(resource), str(scope), str(span)))
    return sorted(rows)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        "attributes": st.dictionaries(
            TEXT.filter(bool), st.one_of(TEXT, st.integers(-5, 2**62), st.just("h" * 100_000)), max_size=2
        ),
        "events": st.lists(TEXT, max_size=2),
        "children": st.lists(TEXT.filter(bool), max_size=2),
        "linked": st.just(True),
        "error": TEXT,
        "ending": st.sampled_from(["ok", "raises", "raises once", "raises twice", "fails", "hangs", "ends its span"]),
    },
)
SAMPLERS = ["always_on", "always_off", "parentbased_always_on", "parentbased_always_off"]


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(ITEM, max_size=6),
    st.sampled_from([None, ELSEWHERE, UNSAMPLED]),
    st.sampled_from(["auto", "nested", "linked"]),
    st.sampled_from(SAMPLERS),
    st.sampled_from([{}, {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "4", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "10"}]),
    st.booleans(),
)
def test_payload_equals_that_of_the_sdk(
    script: list[Script], parent: SpanContext | None, shape: str, sampler: str, limits: dict[str, str], retries: bool
) -> None:
    given_: dict[str, Any] = {
        "parent": parent,
        "shape": shape,
        "environment": {"OTEL_TRACES_SAMPLER": sampler, **limits},
        "retries": retries,
    }
    sent = [
        comparable(payload_of(script, ours=ours, plain=plain, **given_))
        for ours, plain in ((False, False), (True, False), (True, True))
    ]
    assert sent[0] == sent[1] == sent[2]


@pytest.mark.parametrize("retries", [True, False])
def test_payload_of_a_stopped_batch_equals_that_of_the_sdk(retries: bool) -> None:
    """Some items have ended, some are cancelled, and some have not started."""
    script: list[Script] = [{}, {"attributes": {"k": 1}}, *[{"ending": "hangs", "attributes": {"k": 2}}] * 4, {}, {}]
    sent = [
        comparable(payload_of(script, ours=ours, plain=plain, shape="nested", retries=retries, batch_timeout=1))
        for ours, plain in ((False, False), (True, False), (True, True))
    ]
    assert sent[0] == sent[1] == sent[2]
    items = [text for name, *_, text in sent[0] if name.startswith("process ")]
    assert len(items) == 8
    assert sum("flowrt.item.queue_wait" in text for text in items) == 5, "the two that ended and the three in flight"


async def child(data: dict[str, int]) -> int:
    trace.get_current_span().set_attribute("odd", data["item"] % 2)
    if data["item"] == 5:
        raise ValueError("five")
    return data["item"]


async def plain_child(data: dict[str, int]) -> int:
    return data["item"]


@pytest.mark.parametrize("parent", [None, ELSEWHERE, UNSAMPLED])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("inner", [child, plain_child])
def test_payload_of_nested_batches_equals_that_of_the_sdk(parent: SpanContext | None, sampler: str, inner: Any) -> None:
    script: list[Script] = [{"items": [1, 2, 3]}, {"items": [4, 5]}, {"items": []}]
    given_: dict[str, Any] = {
        "parent": parent,
        "environment": {"OTEL_TRACES_SAMPLER": sampler},
        "work": MapNode("node", inner),
        "retries": False,
    }
    sent = [
        comparable(payload_of(script, ours=ours, plain=plain, **given_))
        for ours, plain in ((False, False), (True, False), (True, True))
    ]
    assert sent[0] == sent[1] == sent[2]
    children = [(under, roots) for name, under, roots, *_ in sent[0] if name.startswith(f"process {inner.__name__} ")]
    assert len(children) in (0, 5)
    assert all(under == "batch node []" for under, _ in children)


@pytest.mark.parametrize("shape", ["nested", "linked"])
def test_ratio_sampler_is_applied_per_trace(shape: str, run_virtual: Callable[[Any], Any]) -> None:
    with patch.dict(os.environ, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}):
        provider = make_provider(Resource({}))
    kept = Payload()
    provider.target = kept

    async def identity(x: int) -> int:
        return x

    with patch.object(trace, "_TRACER_PROVIDER", provider):
        processor = BatchProcessor(identity, 5, telemetry=Telemetry(trace_shape=shape))  # type: ignore[arg-type]
        results = run_virtual(processor.batch(range(400)))
    items = [span for span in kept.spans if type(span) is ItemSpan]
    if shape == "nested":
        assert len(items) in (0, 400)
    else:
        assert 120 < len(items) < 280
        wanted = {span.index for span in items}
        assert {span.ids[:16].hex() for span in items} == {results[index].trace_id for index in wanted}
    assert len({result.span_id for result in results}) == 400, "unsampled items have ids too"


@pytest.mark.parametrize("name", ["traceidratio", "parentbased_traceidratio"])
@pytest.mark.parametrize("share", ["0", "0.3", "1"])
def test_sdk_ratio_sampler_is_obeyed_without_a_call_per_item(
    name: str, share: str, run_virtual: Callable[[Any], Any]
) -> None:
    with patch.dict(os.environ, {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": share}):
        provider = make_provider(Resource({}))
    kept = Payload()
    provider.target = kept

    async def identity(x: int) -> int:
        return x

    telemetry = Telemetry(trace_shape="linked")
    with (
        patch.object(trace, "_TRACER_PROVIDER", provider),
        patch.object(
            type(provider.sampler), "should_sample", autospec=True, side_effect=type(provider.sampler).should_sample
        ) as asked,
    ):
        results = run_virtual(BatchProcessor(identity, 5, telemetry=telemetry).batch(range(300)))
        calls = asked.call_count
    wanted = set()
    for result in results:
        answer = provider.sampler.should_sample(None, int(result.trace_id, 16), "process identity", links=[])
        if answer.decision.name == "RECORD_AND_SAMPLE":
            wanted.add(result.index)
    assert {span.index for span in kept.spans if type(span) is ItemSpan} == wanted
    assert calls < 10


def test_attributes_of_a_sampler_are_on_the_span() -> None:
    from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

    class Odd(Sampler):
        def should_sample(self, parent_context: Any, trace_id: int, name: str, *rest: Any, **more: Any) -> Any:
            attributes = dict(rest[1] or {})
            index = attributes.get("flowrt.item.index", 0)
            if index % 2 and isinstance(index, int):
                return SamplingResult(Decision.RECORD_AND_SAMPLE, {**attributes, "odd": True, "list": [1]})
            return SamplingResult(Decision.DROP)

        def get_description(self) -> str:
            return "Odd"

    provider = make_provider(Resource({}))
    provider.sampler = Odd()
    kept = Payload()
    provider.target = kept
    with patch.object(trace, "_TRACER_PROVIDER", provider):
        run_virtual(BatchProcessor(node, 2).batch([{}] * 6))
    items = [span.readable() for span in kept.spans if type(span) is ItemSpan]
    assert sorted(span.attributes["flowrt.item.index"] for span in items) == [1, 3, 5]
    assert all(span.attributes["odd"] is True for span in items)


def test_custom_id_generator_makes_the_ids() -> None:
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class Counting(IdGenerator):
        def __init__(self) -> None:
            self.last = 0

        def generate_span_id(self) -> int:
            self.last += 1
            return self.last

        def generate_trace_id(self) -> int:
            return 0xAA00 + self.generate_span_id()

    provider = make_provider(Resource({}))
    provider.id_generator = Counting()
    kept = Payload()
    provider.target = kept
    with patch.object(trace, "_TRACER_PROVIDER", provider):
        results = run_on(
            VirtualLoop, BatchProcessor(node, 2, telemetry=Telemetry(trace_shape="linked")).batch([{}] * 3)
        )
    assert all(int(result.trace_id, 16) >> 8 == 0xAA for result in results)
    assert all(0 < int(result.span_id, 16) < 100 for result in results)


def test_links_lead_to_the_batch_span() -> None:
    request = payload_of([{}] * 3, ours=True, parent=None, shape="linked", environment={})
    spans = [s for rs in request.resource_spans for ss in rs.scope_spans for s in ss.spans]
    (batch,) = [span for span in spans if span.name.startswith("batch ")]
    items = [span for span in spans if span.name.startswith("process ")]
    assert {span.trace_id for span in items}.isdisjoint({batch.trace_id})
    assert all(span.links[0].span_id == batch.span_id for span in items)
