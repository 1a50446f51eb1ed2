"""Telemetry of the batches of a MapNode inside the items of another batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from flowrt import BatchProcessor, MapNode, NodeContext, WorkflowContext
from flowrt.telemetry.metrics.store import METRICS

Run = Callable[[Any], Any]
Sample = Callable[..., float]
Spans = Callable[[], list[ReadableSpan]]

INPUTS = [{"items": [1, 2, 3]}, {"items": [4, 5]}]


async def child(data: dict[str, int]) -> int:
    if data["item"] == 5:
        raise ValueError("five")
    return data["item"]


def test_children_are_counted_and_their_time_is_attributed(run: Run, sample: Sample) -> None:
    results = run(BatchProcessor(MapNode("map", child), 10, name="outer").batch(INPUTS))
    assert [result.success for result in results] == [True, False]
    labels = {"batch": "map", "node": "child"}
    assert sample("flowrt_items_total", status="ok", **labels) == 4
    assert sample("flowrt_items_total", status="failed", **labels) == 1
    assert sample("flowrt_batches_total", batch="map", status="ok") == 1
    assert sample("flowrt_batches_total", batch="map", status="failed") == 1
    assert sample("flowrt_unaccounted_items", batch="map") == 0
    bound_ns = sum(sum(shard.bound_ns.values()) for shard in METRICS.shards["map", "child"])
    assert bound_ns == METRICS.batches["map"].duration.sum_ns > 0


def test_spans_of_children_are_under_their_items_span(run: Run, spans: Spans) -> None:
    run(BatchProcessor(MapNode("map", child), 10, name="outer").batch(INPUTS))
    by_id = {span.context.span_id: span for span in spans() if span.context is not None}
    children = [span for span in by_id.values() if span.name == "process child"]
    assert len(children) == 5
    for span in children:
        above, at = [], span
        while at.parent is not None:
            at = by_id[at.parent.span_id]
            above.append(at.name)
        assert above == ["batch map", "process map", "batch outer"]


def test_children_of_an_unobserved_batch_are_not_observed(run: Run, spans: Spans) -> None:
    results = run(BatchProcessor(MapNode("map", child), 10, telemetry=False).batch(INPUTS))
    assert results[0].output == {"results": [1, 2, 3], "total": 3, "succeeded": 3, "failed": 0}
    assert results[1].output == {"results": [4, None], "total": 2, "succeeded": 1, "failed": 1}
    assert not METRICS.shards["map", "child"]
    assert not spans()


def test_map_outside_of_a_batch_is_observed(run: Run, sample: Sample) -> None:
    node = MapNode("map", child)
    result = run(node.execute(NodeContext("map", "map", INPUTS[0]), WorkflowContext()))
    assert result.success
    assert sample("flowrt_items_total", batch="map", node="child", status="ok") == 3


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_nested_batches_log_their_failures_and_at_debug_that_they_ran(
    run: Run, caplog: pytest.LogCaptureFixture, level: str
) -> None:
    caplog.set_level(level, logger="flowrt")
    run(BatchProcessor(MapNode("map", child), 10, name="outer").batch(INPUTS))
    lines = [record.getMessage() for record in caplog.records if "batch=map" in record.getMessage()]
    assert sum(line.startswith("item.failed") for line in lines) == 1
    assert sum(line.startswith("batch.") for line in lines) == (4 if level == "DEBUG" else 0)
    outer = [record.getMessage() for record in caplog.records if "batch=outer" in record.getMessage()]
    assert sum(line.startswith("batch.completed") for line in outer) == 1
