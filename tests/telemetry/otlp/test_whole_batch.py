"""Batches at full speed with all telemetry on: every span arrives."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource

from flowrt import BatchProcessor
from flowrt.telemetry.otlp import SpanPipeline, make_transport, read_settings
from flowrt.telemetry.tracing.otlp_encoding import encode_spans
from flowrt.telemetry.tracing.setup import make_provider
from tests.telemetry.otlp.harness import HANG_GUARD_S, Collector, encode, slow, status

MANY = 10_000


async def node(item: int) -> int:
    if item % 1_000 == 0:
        trace.get_current_span().set_attribute("a thousand", item)
    return item


@pytest.mark.parametrize("delay_s", [0.0, 0.1], ids=["fast collector", "collector that takes 100 ms"])
def test_every_span_arrives_once_with_its_items_outcome(
    collector: Callable[..., Collector], monkeypatch: pytest.MonkeyPatch, delay_s: float
) -> None:
    there = collector(slow(delay_s, status(200)))
    provider = make_provider(Resource({"service.name": "tested"}))
    pipeline = SpanPipeline(
        make_transport(read_settings(there.endpoint)),
        lambda spans: encode_spans(spans, encode, provider.resource),
        takes_plain=True,
    )
    provider.target = pipeline
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(BatchProcessor(node, 100).batch(range(MANY)))
    pipeline.close(HANG_GUARD_S)

    assert pipeline.exported == pipeline.ended == MANY + 1
    spans: list[Any] = [
        span
        for request in there.requests
        for part in ExportTraceServiceRequest.FromString(request.body).resource_spans
        for scope in part.scope_spans
        for span in scope.spans
        if span.name == "process node"
    ]
    assert len(spans) == len({span.span_id for span in spans}) == MANY
    by_index = {
        pair.value.int_value: span for span in spans for pair in span.attributes if pair.key == "flowrt.item.index"
    }
    assert all(by_index[result.index].trace_id.hex() == result.trace_id for result in results)
    assert all(by_index[result.index].span_id.hex() == result.span_id for result in results)
    assert Counter(len(span.attributes) for span in spans) == {5: MANY - MANY // 1_000, 6: MANY // 1_000}


class Looked:
    """Target that takes plain spans and records how many were appended between two checks."""

    takes_plain = True

    def __init__(self) -> None:
        self.unseen = 0
        self.seen: list[int] = []

    def append(self, _: Any) -> None:
        self.unseen += 1

    def put(self, _: Any) -> None:
        """Take a span that is checked at once."""

    def check_backlog(self, added: int) -> None:
        assert added >= self.unseen
        self.seen.append(self.unseen)
        self.unseen = 0

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


@pytest.mark.parametrize("odd", [0, 1])
def test_backlog_is_checked_whichever_items_are_plain(monkeypatch: pytest.MonkeyPatch, odd: int) -> None:
    target = Looked()
    provider = make_provider(Resource({}))
    provider.target = target
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    async def every_other(item: int) -> None:
        if item % 2 == odd:
            trace.get_current_span().set_attribute("mine", item)

    asyncio.run(BatchProcessor(every_other, 1).batch(range(160)))
    assert target.seen == [8] * 10 + [0]
