"""Exemplars of buckets, for sampled traces only."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any
from unittest.mock import patch

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flowrt import BatchProcessor
from flowrt.model import BatchRecord, make_record
from flowrt.telemetry.metrics.store import MetricsStore, Shard

Run = Callable[[Any], Any]


def exemplars(batch: str, status: str) -> list[Any]:
    """Exemplars of a batch's items on a scraped page."""
    text = generate_latest(REGISTRY).decode()
    return [
        sample.exemplar
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "flowrt_item_duration_seconds_bucket"
        and (sample.labels["batch"], sample.labels["status"]) == (batch, status)
        and sample.exemplar is not None
    ]


async def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError("odd")
    return x


@pytest.fixture
def name() -> str:
    return f"ex{uuid.uuid4().hex[:8]}"


def test_exemplar_names_a_trace_of_its_bucket(run: Run, name: str, spans: Callable[[], list[ReadableSpan]]) -> None:
    results = run(BatchProcessor(odd_fails, 2, name=name).batch(range(20)))
    assert spans()
    for status, kind in (("ok", results.succeeded), ("failed", results.failed)):
        (exemplar, *_) = exemplars(name, status)
        times_s = [result.execution_time for result in kind if result.trace_id == exemplar.labels["trace_id"]]
        assert exemplar.value in [pytest.approx(seconds, rel=1e-3, abs=1e-6) for seconds in times_s]
        assert float(exemplar.timestamp) == pytest.approx(spans()[-1].end_time / 1e9, abs=60)


def test_untraced_batch_has_no_exemplars(run: Run, name: str) -> None:
    run(BatchProcessor(odd_fails, name=name).batch(range(4)))
    assert exemplars(name, "ok") == []


def test_unsampled_trace_is_not_an_exemplar(run: Run, name: str) -> None:
    with patch.object(trace, "_TRACER_PROVIDER", TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)):
        results = run(BatchProcessor(odd_fails, name=name).batch(range(4)))
    assert results[0].trace_id
    assert exemplars(name, "ok") == exemplars(name, "failed") == []


def taken_at(shard: Shard, now_ns: int, ids: bytes) -> None:
    """Count an item that ends then, as the metrics instrument does."""
    batch = BatchRecord(name="batch", node_id="node", node_type="function", limit=1)
    item = make_record(batch, 0, None, now_ns)
    item.finished_ns, item.trace = now_ns, ids
    if now_ns >= shard.ok_exemplars.due_ns[0]:
        shard.ok_exemplars.take(0, item)


def trace_in(shard: Shard) -> str:
    (exemplar, *_) = shard.ok_exemplars.latest
    return "" if exemplar is None else exemplar.trace_id


def test_exemplar_outlasts_a_batch_of_the_same_clock() -> None:
    store = MetricsStore()
    pair = store.declare("batch", "node", 1)
    first = store.take(pair, (1.0,))
    taken_at(first, 1, b"\1" * 26)
    store.give_back(first)
    again = store.take(pair, (1.0,))
    assert again is first
    taken_at(again, 2, b"\2" * 26)
    assert trace_in(again) == "01" * 16
    taken_at(again, 1_000_000_001, b"\3" * 26)
    assert trace_in(again) == "03" * 16


def test_exemplar_is_replaced_under_another_clock() -> None:
    store = MetricsStore()
    pair = store.declare("batch", "node", 1)
    for clock, byte in ((perf_counter_ns, 1), (lambda: 1, 2), (lambda: 1, 3), (perf_counter_ns, 4)):
        shard = store.take(pair, (1.0,), clock)
        taken_at(shard, 1, bytes([byte]) * 26)
        assert trace_in(shard) == f"0{byte}" * 16
        store.give_back(shard)
