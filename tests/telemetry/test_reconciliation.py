"""Audit at the end of a batch, with each sink broken in turn."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from flowrt import BatchProcessor, Telemetry
from flowrt.telemetry.metrics.instrument import MetricsInstrument
from flowrt.telemetry.metrics.store import Shard
from flowrt.telemetry.tracing.instrument import TracingInstrument
from flowrt.telemetry.tracing.native_instrument import NativeTracingInstrument

Run = Callable[[Any], Any]
Sample = Callable[..., float]


async def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError("odd")
    return x


@pytest.fixture
def name() -> str:
    return f"audit{uuid.uuid4().hex[:8]}"


def mismatches(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "telemetry.mismatch"]


def test_consistent_batch_logs_nothing(
    run: Run, name: str, sample: Sample, events: list[dict[str, Any]], spans: Callable[[], list[ReadableSpan]]
) -> None:
    run(BatchProcessor(odd_fails, 3, name=name).batch(range(50)))
    assert sample("flowrt_unaccounted_items", batch=name) == 0
    assert len(spans()) == 51
    assert mismatches(events) == []


def test_missing_count_is_logged(
    run: Run, name: str, sample: Sample, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shard, "add", lambda *_: None)  # items off the fast path get lost
    run(BatchProcessor(odd_fails, 3, name=name).batch(range(50)))
    assert sample("flowrt_unaccounted_items", batch=name) == 25
    (event,) = mismatches(events)
    assert (event["inputs"], event["results"], event["counted"], event["unaccounted"]) == (50, 50, 25, 25)
    assert event["level"] == "error"


def test_metrics_instrument_that_breaks_midway_is_logged(
    run: Run, name: str, sample: Sample, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = MetricsInstrument.item_finished

    def breaks(self: MetricsInstrument, item: Any) -> None:
        if item.index == 10:
            raise RuntimeError("broken")
        count(self, item)

    monkeypatch.setattr(MetricsInstrument, "item_finished", breaks)
    results = run(BatchProcessor(odd_fails, 1, name=name).batch(range(20)))
    assert len(results) == 20
    assert sample("flowrt_unaccounted_items", batch=name) == 10
    assert mismatches(events)[0]["counted"] == 10


@pytest.mark.usefixtures("spans")
def test_missing_spans_are_logged(
    run: Run, name: str, sample: Sample, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for tracing in (TracingInstrument, NativeTracingInstrument):
        end = tracing.item_finished

        def breaks(self: Any, item: Any, end: Any = end) -> None:
            if item.index == 7:
                raise RuntimeError("broken")
            end(self, item)

        monkeypatch.setattr(tracing, "item_finished", breaks)
    run(BatchProcessor(odd_fails, 1, name=name).batch(range(20)))
    assert sample("flowrt_unaccounted_items", batch=name) == 13
    assert mismatches(events)[0]["spans"] == 7


def test_next_consistent_batch_resets_the_gauge(
    run: Run, name: str, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = BatchProcessor(odd_fails, name=name)
    with monkeypatch.context() as broken:
        broken.setattr(Shard, "add", lambda *_: None)
        run(processor.batch(range(4)))
        assert sample("flowrt_unaccounted_items", batch=name) == 2
    run(processor.batch(range(4)))
    assert sample("flowrt_unaccounted_items", batch=name) == 0


def test_concurrent_batches_are_audited_separately(run: Run, name: str, sample: Sample) -> None:
    import asyncio

    async def slow(x: int) -> int:
        await asyncio.sleep(0.001)
        return x

    processor = BatchProcessor(slow, 2, name=name)

    async def both() -> None:
        await asyncio.gather(processor.batch(range(30)), processor.batch(range(50)))

    run(both())
    assert sample("flowrt_unaccounted_items", batch=name) == 0
    assert sample("flowrt_items_total", batch=name, node="slow", status="ok") == 80


def test_disabled_metrics_disable_the_audit(run: Run, events: list[dict[str, Any]]) -> None:
    run(BatchProcessor(odd_fails, telemetry=Telemetry(metrics=False)).batch(range(4)))
    assert mismatches(events) == []
