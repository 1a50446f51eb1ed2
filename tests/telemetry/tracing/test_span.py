"""Differential test of the item span and its encoding against the SDK's, field by field."""

from __future__ import annotations

import enum
import json
import logging
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as official
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.otlp import sender
from flowrt.telemetry.tracing.ids import make_ids
from flowrt.telemetry.tracing.otlp_encoding import encode_spans
from flowrt.telemetry.tracing.span import ItemSpan
from flowrt.telemetry.tracing.span_frame import SpanFrame
from tests.examples import examples

RESOURCE = Resource({"service.name": "tested", "numbers": (1, 2), "schema": True}, "https://example.com/schema")
COMMON = {"flowrt.batch.name": "b", "flowrt.batch.id": "0" * 32, "flowrt.node.id": "naïve 节点"}
STATE = TraceState([("vendor", "1"), ("other", "x")])
PARENT = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1), trace_state=STATE)
LINKED = SpanContext(7, 8, is_remote=False, trace_flags=TraceFlags(3))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)  # both log a warning for what they drop
    yield
    logging.disable(logging.NOTSET)


class _Kept(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def frame_of(limits: SpanLimits, taken: list[ItemSpan], *, nested: bool) -> SpanFrame:
    return SpanFrame(
        name="process naïve 节点",
        resource=RESOURCE,
        scope=InstrumentationScope("flowrt", "1.2"),
        limits=limits,
        attributes=COMMON,
        links=() if nested else (Link(LINKED),),
        parent=PARENT if nested else None,
        flags=TraceFlags(3),
        trace_state=STATE if nested else TraceState(),
        recording=True,
        offset_ns=1_000_000_000_000,
        hand_over=taken.append,
    )


def the_sdks(
    limits: SpanLimits, index: int, use: Callable[[trace.Span], None], *, nested: bool, delayed_ns: int = 0
) -> ReadableSpan:
    """SDK span of the same item, changed in the same way."""
    kept = _Kept()
    provider = TracerProvider(ALWAYS_ON, RESOURCE, shutdown_on_exit=False, span_limits=limits)
    provider.add_span_processor(kept)
    context = trace.set_span_in_context(trace.NonRecordingSpan(PARENT)) if nested else None
    span = provider.get_tracer("flowrt", "1.2").start_span(
        "process naïve 节点",
        context,
        SpanKind.INTERNAL,
        {**COMMON, "flowrt.item.index": index},
        None if nested else [Link(LINKED)],
        1_000_000_000_500,
    )
    use(span)
    if span.is_recording():
        span.set_attribute("flowrt.item.queue_wait", 0.25)
        if delayed_ns:
            span.set_attribute("flowrt.item.held", delayed_ns / 1e9)
    span.end(1_000_000_000_900)
    return kept.spans[0]


def ours(
    limits: SpanLimits, index: int, use: Callable[[trace.Span], None], ids: bytes, *, nested: bool, delayed_ns: int = 0
) -> ItemSpan:
    taken: list[ItemSpan] = []
    span = ItemSpan(frame_of(limits, taken, nested=nested), ids, index, 500)
    use(span)
    span.wait_ns, span.attempts, span.delayed_ns = 250_000_000, 1, delayed_ns
    if span.is_recording():
        if span.additions is not None:
            span.complete()
        span.end_ns = 900
        taken.append(span)
    assert len(taken) == 1
    return taken[0]


def spans_of(payload: bytes) -> Any:
    """Request with equal times of events, as each side reads the clock itself."""
    request = ExportTraceServiceRequest.FromString(payload)
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                for event in span.events:
                    assert event.time_unix_nano > 0
                    event.time_unix_nano = 1
    return request


def assert_same(
    limits: SpanLimits, index: int, use: Callable[[trace.Span], None], *, nested: bool, delayed_ns: int = 0
) -> None:
    theirs = the_sdks(limits, index, use, nested=nested, delayed_ns=delayed_ns)
    context = theirs.get_span_context()
    mine = ours(limits, index, use, make_ids(context.trace_id, context.span_id), nested=nested, delayed_ns=delayed_ns)
    expected = spans_of(official([theirs]).SerializeToString())
    assert spans_of(encode_spans([mine], lambda _: b"")) == expected
    # the same through exporters of the SDK, which take no OTLP
    assert spans_of(official([mine.readable()]).SerializeToString()) == expected


def _nothing(span: trace.Span) -> None:
    """The node adds nothing."""


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("index", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 2**31, 2**40])
def test_plain_span_equals_that_of_the_sdk(index: int, nested: bool) -> None:
    assert_same(SpanLimits(), index, _nothing, nested=nested)


@pytest.mark.parametrize(
    "limits",
    [
        SpanLimits(max_span_attributes=0),
        SpanLimits(max_span_attributes=3),
        SpanLimits(max_span_attribute_length=4),
        SpanLimits(max_links=0),
        SpanLimits(max_attributes=SpanLimits.UNSET, max_span_attributes=SpanLimits.UNSET),
    ],
)
def test_limits_apply_to_plain_spans(limits: SpanLimits) -> None:
    assert_same(limits, 5, _nothing, nested=False)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


class Shade(enum.StrEnum):
    DARK = "dark"


class Access(enum.IntFlag, boundary=enum.STRICT):
    READ = 1
    WRITE = 2


class Money(float):
    __slots__ = ()


class Plain:
    """Object without a text of its own: the SDK exports no value for it."""


ODD = st.sampled_from(
    [
        HTTPStatus.NOT_FOUND,
        SpanKind.SERVER,
        Access.READ | Access.WRITE,
        TraceFlags(3),
        Shade.DARK,
        Money(2.5),
        Decimal("1.10"),
        Plain(),
        None,
        range(3),
        {1, 2},
        np.int64(7),
        np.float64(0.5),
        np.array([1, 2]),
        Path("/tmp"),  # noqa: S108  # a value, not a file
    ]
)
SCALARS = st.one_of(TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary(), ODD)
VALUES = st.recursive(
    st.one_of(SCALARS, st.just("x" * 5_000)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT.filter(bool), inner, max_size=3)),
    max_leaves=5,
)
KEYS = st.one_of(st.sampled_from(["a", "b", "flowrt.item.index"]), TEXT)
ODD_KEYS = st.sampled_from([5, None, Shade.DARK, HTTPStatus.OK, b"bytes", Plain()])
ATTRIBUTES = st.dictionaries(KEYS | ODD_KEYS, VALUES, max_size=4)
CODES = st.sampled_from(list(StatusCode))


def _error(text: str) -> ValueError:
    try:
        raise ValueError(text)
    except ValueError as exc:
        return exc


STEPS: st.SearchStrategy[Callable[[trace.Span], Any]] = st.one_of(
    st.builds(lambda key, value: lambda span: span.set_attribute(key, value), KEYS | ODD_KEYS, VALUES),
    st.builds(lambda attributes: lambda span: span.set_attributes(attributes), ATTRIBUTES),
    st.builds(lambda name, attributes: lambda span: span.add_event(name, attributes), TEXT, ATTRIBUTES),
    st.builds(lambda name, at: lambda span: span.add_event(name, None, at), TEXT, st.integers(1, 2**62)),
    st.builds(lambda code, text: lambda span: span.set_status(code, text), CODES, st.none() | TEXT),
    st.builds(lambda code, text: lambda span: span.set_status(Status(code, text)), CODES, st.none() | TEXT),
    st.builds(lambda status: lambda span: span.set_status(status), st.sampled_from(["OK", None, 2])),
    st.builds(lambda name: lambda span: span.update_name(name), TEXT),
    st.builds(lambda attributes: lambda span: span.add_link(LINKED, attributes), ATTRIBUTES),
    st.builds(lambda attributes: lambda span: span.add_link(trace.INVALID_SPAN_CONTEXT, attributes), ATTRIBUTES),
    st.builds(lambda: lambda span: span.add_link(PARENT)),
    st.builds(
        lambda exc, attributes: lambda span: span.record_exception(exc, attributes), TEXT.map(_error), ATTRIBUTES
    ),
    st.builds(lambda: lambda span: span.end(1_000_000_000_700)),
)
LIMITS = st.builds(
    SpanLimits,
    max_span_attributes=st.sampled_from([None, 0, 1, 5]),
    max_event_attributes=st.sampled_from([None, 0, 1]),
    max_link_attributes=st.sampled_from([None, 0, 1]),
    max_events=st.sampled_from([None, 0, 1]),
    max_links=st.sampled_from([None, 0, 1, 2]),
    max_attribute_length=st.sampled_from([None, 0, 3]),
)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("use", [_nothing, lambda span: span.set_attribute("of the node", 1)])
@pytest.mark.parametrize("limits", [SpanLimits(), *(SpanLimits(max_span_attributes=most) for most in range(9))])
@pytest.mark.parametrize("index", [5, 129])
def test_delayed_item_has_its_delay_as_an_attribute(
    limits: SpanLimits, use: Callable[[trace.Span], None], index: int, nested: bool
) -> None:
    assert_same(limits, index, use, nested=nested, delayed_ns=310_000_000)


@settings(max_examples=examples(300), deadline=None)
@given(LIMITS, st.integers(0, 2**21), st.lists(STEPS, max_size=6), st.booleans())
def test_any_change_to_a_span_gives_the_payload_of_the_sdk(
    limits: SpanLimits, index: int, steps: list[Callable[[trace.Span], Any]], nested: bool
) -> None:
    def use(span: trace.Span) -> None:
        for step in steps:
            step(span)

    assert_same(limits, index, use, nested=nested)


def test_error_in_a_with_block_is_recorded_as_by_the_sdk() -> None:
    def use(span: trace.Span) -> None:
        with pytest.raises(ZeroDivisionError), span:
            math.fmod(1, 1 // 0)

    theirs, mine = (
        the_sdks(SpanLimits(), 0, use, nested=False),
        ours(SpanLimits(), 0, use, make_ids(1, 1), nested=False).readable(),
    )
    assert (mine.status.status_code, mine.status.description) == (theirs.status.status_code, theirs.status.description)
    assert [event.name for event in mine.events] == [event.name for event in theirs.events] == ["exception"]
    assert dict(mine.events[0].attributes or {})["exception.escaped"] == "True"


def test_span_has_the_properties_of_an_sdk_span() -> None:
    taken: list[ItemSpan] = []
    frame = frame_of(SpanLimits(), taken, nested=True)
    span = ItemSpan(frame, make_ids(PARENT.trace_id, 0x77), 4, 500)
    assert span.is_recording()
    assert (span.name, span.kind, span.parent) == ("process naïve 节点", SpanKind.INTERNAL, PARENT)
    assert (span.start_time, span.end_time) == (1_000_000_000_500, None)
    assert span.status.status_code is StatusCode.UNSET
    assert (span.events, span.links) == ((), ())
    assert span.attributes["flowrt.item.index"] == 4
    assert span.context == span.get_span_context() == SpanContext(PARENT.trace_id, 0x77, False, TraceFlags(3), STATE)
    assert span.get_span_context() is span.get_span_context()
    assert (span.resource, span.instrumentation_scope.name) == (RESOURCE, "flowrt")
    assert isinstance(span, ReadableSpan)
    assert (span.dropped_attributes, span.dropped_events, span.dropped_links) == (0, 0, 0)
    assert json.loads(span.to_json())["name"] == "process naïve 节点"
    with pytest.raises(TypeError):
        span.attributes["mine"] = 1  # type: ignore[index]
    span.add_event("e")
    span.end()
    assert not span.is_recording()
    span.set_attribute("late", 1)
    span.end()
    assert taken == [span]
    assert "late" not in span.attributes
    assert span.end_time is not None


def test_lone_surrogate_is_escaped_and_too_large_int_is_left_out() -> None:
    def use(span: trace.Span) -> None:
        span.set_attribute("text", "a\udc80b")
        span.set_attribute("number", 2**70)
        span.update_name("n\udc80")

    mine = ours(SpanLimits(), 0, use, make_ids(1, 1), nested=False)
    (span,) = spans_of(encode_spans([mine], lambda _: b"")).resource_spans[0].scope_spans[0].spans
    attributes = {pair.key: pair.value.string_value for pair in span.attributes}
    assert span.name == r"n\udc80"
    assert attributes["text"] == r"a\udc80b"
    assert "number" not in attributes
    assert span.dropped_attributes_count == 1


class _Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_value_whose_str_raises_is_dropped_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_warned_at", {})
    logging.disable(logging.NOTSET)
    odd: Any = _Unprintable()

    def use(span: trace.Span) -> None:
        span.set_attribute("alone", odd)
        span.set_attributes({"first": 1, "second": odd, "third": 3})
        span.add_event("event", {"in an event": odd, "beside it": 1})
        span.add_link(LINKED, {"in a link": odd})
        span.set_attributes([1])  # type: ignore[arg-type]

    before = METRICS.drops["attributes", "export_error"]
    mine = ours(SpanLimits(), 0, use, make_ids(1, 1), nested=True)
    (span,) = spans_of(encode_spans([mine], lambda _: b"")).resource_spans[0].scope_spans[0].spans
    assert {"first", "third"} < {pair.key for pair in span.attributes}
    assert span.dropped_attributes_count == 3
    assert [pair.key for pair in span.events[0].attributes] == ["beside it"]
    assert (span.events[0].dropped_attributes_count, span.links[0].dropped_attributes_count) == (1, 1)
    assert METRICS.drops["attributes", "export_error"] == before + 5
    messages = [record.getMessage() for record in caplog.records if record.name == "flowrt.export"]
    assert [message.partition(":")[0] for message in messages] == [
        "dropped the span attribute 'alone'",
        "dropped the span attribute 'list'",
    ]


def test_parts_that_otlp_cannot_represent_are_counted_once() -> None:
    def use(span: trace.Span) -> None:
        span.set_attribute("number", 2**70)
        span.add_event("before time", None, -1)
        span.add_event("kept")

    before = METRICS.drops["attributes", "export_error"]
    mine = ours(SpanLimits(), 0, use, make_ids(1, 1), nested=False)
    for _ in range(2):  # a request over the size limit is split and encoded again
        (span,) = spans_of(encode_spans([mine], lambda _: b"")).resource_spans[0].scope_spans[0].spans
    assert [event.name for event in span.events] == ["kept"]
    assert (span.dropped_attributes_count, span.dropped_events_count) == (1, 1)
    assert METRICS.drops["attributes", "export_error"] == before + 2


def test_spans_of_several_batches_and_the_sdk_share_a_request() -> None:
    limits, taken = SpanLimits(), list[ItemSpan]()
    one, two = frame_of(limits, taken, nested=True), frame_of(limits, taken, nested=False)
    spans: list[Any] = []
    for number, frame in enumerate((one, two, one, two)):
        span = ItemSpan(frame, make_ids(1, number + 1), number, 500)
        span.wait_ns, span.attempts, span.end_ns = 0, 1, 900
        spans.append(span)
    spans.insert(2, the_sdks(limits, 9, _nothing, nested=False))
    request = spans_of(encode_spans(spans, lambda others: official(others).SerializeToString()))
    indices = sorted(
        pair.value.int_value
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
        for pair in span.attributes
        if pair.key == "flowrt.item.index"
    )
    assert indices == [0, 1, 2, 3, 9]
    assert {rs.schema_url for rs in request.resource_spans} == {"https://example.com/schema"}
