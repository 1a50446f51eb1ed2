"""Tail sampling keeps or drops an item span together with its child spans."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from flowrt import BatchProcessor, MapNode, NodeContext, TailSampling, Telemetry, WorkflowContext
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.tracing import instrument as tracing
from flowrt.telemetry.tracing.provider import RuntimeProvider
from flowrt.telemetry.tracing.setup import make_provider
from tests.telemetry.conftest import Kept

Run = Callable[[Any], Any]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[RuntimeProvider]:
    provider = make_provider(Resource({}))
    provider.target = Kept()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield provider
    assert provider.span_buffer is None or len(provider.span_buffer) == 0, "the buffer is empty at the end"
    assert provider.span_buffer is None or not provider.span_buffer._by_id


def kept(provider: RuntimeProvider, prefix: str) -> list[ReadableSpan]:
    assert isinstance(provider.target, Kept)
    return [span for span in provider.target.spans if span.name.startswith(prefix)]


async def calls(x: int) -> int:
    with (
        trace.get_tracer("client").start_as_current_span(f"GET {x}"),
        trace.get_tracer("client").start_as_current_span(f"connect {x}"),
    ):
        await asyncio.sleep(5 if x == 7 else 0.001)
    if x == 3:
        raise ValueError("three")
    if x == 5:
        await asyncio.sleep(1_000)
    return x


@pytest.mark.parametrize("shape", ["nested", "linked"])
def test_failed_and_slow_items_are_kept_with_their_child_spans(
    run_virtual: Run, provider: RuntimeProvider, shape: Any
) -> None:
    telemetry = Telemetry(trace_shape=shape, tail_sampling=TailSampling(share=0, slow=2))
    results = run_virtual(BatchProcessor(calls, 4, item_timeout=10, telemetry=telemetry).batch(range(20)))
    assert {span.attributes["flowrt.item.index"] for span in kept(provider, "process ")} == {3, 5, 7}
    assert {span.name for span in kept(provider, "GET ")} == {"GET 3", "GET 5", "GET 7"}
    assert {span.name for span in kept(provider, "connect ")} == {"connect 3", "connect 5", "connect 7"}
    assert len(kept(provider, "batch ")) == 1
    assert results[1].trace_id is not None


def test_share_of_the_remaining_items_is_kept(run_virtual: Run, provider: RuntimeProvider) -> None:
    telemetry = Telemetry(tail_sampling=TailSampling(share=0.5))

    async def fine(x: int) -> int:
        return x

    run_virtual(BatchProcessor(fine, 4, telemetry=telemetry).batch(range(400)))
    assert 120 < len(kept(provider, "process ")) < 280


def test_buffer_is_bounded_and_dropped_spans_are_counted(run: Run, provider: RuntimeProvider) -> None:
    before = METRICS.drops["spans", "queue_full"]
    telemetry = Telemetry(tail_sampling=TailSampling(share=1, most_spans=3))

    async def chatty(x: int) -> int:
        for n in range(4):
            trace.get_tracer("client").start_span(f"call {n}").end()
        return x

    run(BatchProcessor(chatty, 1, telemetry=telemetry).batch(range(5)))
    assert len(kept(provider, "call ")) == 15
    assert METRICS.drops["spans", "queue_full"] - before == 5


def test_spans_outside_items_are_not_buffered(run: Run, provider: RuntimeProvider) -> None:
    async def main() -> None:
        await BatchProcessor(calls, telemetry=Telemetry(tail_sampling=TailSampling(share=0))).batch([1])
        trace.get_tracer("other").start_span("elsewhere").end()

    run(main())
    assert len(kept(provider, "elsewhere")) == 1
    assert kept(provider, "GET ") == []


def test_batch_inside_an_item_is_kept_or_dropped_with_it(run_virtual: Run, provider: RuntimeProvider) -> None:
    async def child(item: Any) -> int:
        trace.get_tracer("client").start_span("deep").end()
        return 1

    async def outer_with_child(x: int) -> None:
        node = MapNode("inner", child, input_key="items", output_key="done")
        await node.execute(NodeContext("inner", "map", {"items": [0]}), WorkflowContext())
        if x == 1:
            raise ValueError("one")

    telemetry = Telemetry(tail_sampling=TailSampling(share=0))
    run_virtual(BatchProcessor(outer_with_child, 2, telemetry=telemetry).batch(range(3)))
    (failed,) = kept(provider, "process outer_with_child")
    trace_ids = {span.context.span_id for span in kept(provider, "batch ")}
    assert len(kept(provider, "process child")) == len(kept(provider, "deep")) == 1
    assert failed.attributes["flowrt.item.index"] == 1
    assert len(trace_ids) == 2


def test_tail_sampling_with_foreign_processors_is_ignored_and_logged(
    run: Run, provider: RuntimeProvider, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_warned", [])
    provider.add_span_processor(SpanProcessor())
    processor = BatchProcessor(calls, telemetry=Telemetry(tail_sampling=TailSampling(share=0)))
    run(processor.batch([0, 1]))
    run(processor.batch([0, 1]))
    assert len(kept(provider, "process ")) == 4
    assert [record.getMessage() for record in caplog.records if "tail_sampling is ignored" in record.getMessage()] == [
        caplog.records[0].getMessage()
    ]


WRONG = {"share": (-0.1, 1.1, math.nan, True), "slow": (0,), "most_spans": (-1, 2.0)}


@pytest.mark.parametrize(("setting", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_setting_out_of_range_is_named(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be .* not {value}"):
        TailSampling(**{setting: value})


def test_policy_of_a_wrong_type_is_rejected() -> None:
    with pytest.raises(TypeError, match="TailSampling"):
        Telemetry(tail_sampling=0.5)  # type: ignore[arg-type]
