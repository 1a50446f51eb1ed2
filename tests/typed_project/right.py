"""A user's project that passes mypy --strict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal, assert_type

import flowrt
from flowrt import (
    BaseNode,
    BatchProcessor,
    BatchReport,
    BatchResult,
    BatchResults,
    FilterNode,
    FunctionNode,
    Instrument,
    ItemFailedError,
    ItemRecord,
    MapNode,
    NodeContext,
    NodeResult,
    RaceNode,
    ReduceNode,
    Runtime,
    Telemetry,
    WorkflowContext,
    race,
    run,
)


class Fetch(BaseNode):
    def __init__(self) -> None:
        super().__init__(node_id="fetch", node_type="http", name="Fetch", config={"retries": 3})

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        tenant = workflow_context.get_global_variable("tenant", "none")
        return NodeResult(success=True, output={"v": node_context.get_input("x"), "tenant": tenant})


class Count(Instrument):
    finished = 0

    def item_finished(self, item: ItemRecord) -> None:
        self.finished += item.status == "ok"


async def double(x: int) -> int:
    return 2 * x


def blocking(x: int) -> int:
    return 2 * x


async def rows() -> AsyncIterator[dict[str, int]]:
    yield {"x": 1}


async def batches() -> int:
    processor = BatchProcessor(
        Fetch(),
        20,
        continue_on_error=False,
        item_timeout=5,
        batch_timeout=60.0,
        executor="threads",
        name="nightly",
        telemetry=Telemetry(trace_shape="linked", latency_slo=0.5),
        instruments=[Count()],
    )
    results = await processor.batch([{"x": 1}], WorkflowContext(), continue_on_error=True, progress=False)
    assert_type(results, BatchResults)
    assert_type(results[0], BatchResult)
    assert_type(results.failed, list[BatchResult])
    assert_type(results.success_rate, float)
    assert_type(results.report, BatchReport)
    assert_type(await processor.retry_failed(results), BatchResults)
    for result in results:
        assert_type(result.index, int)
        assert_type(result.success, bool)
        assert_type(result.error, str | None)
        assert_type(result.status, Literal["ok", "failed", "timed_out", "cancelled", "resumed"])
        assert_type(result.exception, BaseException | None)
        assert_type(result.execution_time, float)
        assert_type(result.metadata, dict[str, Any])
        assert_type(result.trace_id, str | None)
    async for streamed in BatchProcessor(double).batch_as_completed(rows()):
        assert_type(streamed, BatchResult)
    async with BatchProcessor(blocking).batch_as_completed(range(10)) as stream:
        assert_type(await anext(stream), BatchResult)
    try:
        await BatchProcessor(FunctionNode(double)).batch(x for x in range(3))
    except ItemFailedError as error:
        assert_type(error.result, BatchResult)
    return len(results)


@flowrt.node(max_concurrency=5, item_timeout=2)
async def triple(x: int) -> int:
    return 3 * x


async def one_line() -> list[Any]:
    results = await flowrt.map(double, [1, 2], max_concurrency=2, name="nightly")
    assert_type(results, BatchResults)
    assert_type(results.raise_for_failures(), BatchResults)
    assert_type(await triple.map(range(3), max_concurrency=1), BatchResults)
    return results.outputs


async def nodes() -> NodeResult:
    workflow = WorkflowContext(workflow_id="w")
    mapped = await MapNode("m", double, output_key="out").execute(NodeContext("m", "map", {"items": [1]}), workflow)
    assert_type(mapped, NodeResult)
    await FilterNode("f", lambda x: x > 1).execute(NodeContext("f", "filter", mapped.output), workflow)
    await ReduceNode("r", lambda a, b: a + b, 0).execute(NodeContext("r", "reduce", {"items": [1]}), workflow)
    either = RaceNode("either", [Fetch(), double])
    return await race([either, Fetch(), blocking], {"x": 1}, workflow)


async def service() -> str | None:
    async with Runtime(service_name="svc", metrics_port=0, log_format="json") as runtime:
        return runtime.metrics_url


assert_type(run(batches(), metrics_port=9464), int)
assert_type(flowrt.run(nodes()), NodeResult)
assert_type(asyncio.run(service()), str | None)
