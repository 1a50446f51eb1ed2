"""What the collector counts."""

from __future__ import annotations

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.collector import collector, count_spans


def test_a_span_that_comes_twice_counts_once_and_that_of_the_batch_does_not() -> None:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.add(span_id=b"1" * 8, name="item")
    spans.add(span_id=b"2" * 8, name="item")
    spans.add(span_id=b"3" * 8, name="batch of them")
    with collector() as url:
        for _ in range(2):
            httpx.post(f"{url}/v1/traces", content=request.SerializeToString()).raise_for_status()
        assert count_spans(url) == 2
        assert count_spans(url) == 0
