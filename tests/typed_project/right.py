"""A user's project that passes mypy --strict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Never, TypedDict, assert_type

import flowrt
from flowrt import (
    BaseNode,
    BatchProcessor,
    BatchReport,
    BatchResult,
    BatchResults,
    FilterNode,
    FilterOutput,
    FunctionNode,
    Instrument,
    ItemFailedError,
    ItemRecord,
    MapNode,
    MapOutput,
    NodeContext,
    NodeResult,
    RaceNode,
    ReduceNode,
    ReduceOutput,
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


def blocking(x: int) -> str:
    return str(2 * x)


class Length(BaseNode[str, int]):
    async def execute(self, node_context: NodeContext[str], workflow_context: WorkflowContext) -> NodeResult[int]:
        assert_type(node_context.input_data, str)
        return NodeResult(True, len(node_context.input_data))


class Shout:
    async def __call__(self, text: str) -> bytes:
        return text.upper().encode()


class Foreign:
    """Node of another library."""

    async def execute(self, context: object, workflow: object) -> object:
        return context


class City(TypedDict):
    name: str


async def tell(city: City) -> NodeResult[str]:
    return NodeResult(True, city["name"])


async def fetch(row: dict[str, Any]) -> list[str]:
    return list(row)


def lengths(row: dict[str, Any]) -> dict[str, int]:
    return {key: len(value) for key, value in row.items()}


async def maybe(x: int) -> float | None:
    return x / 2 if x else None


async def child(row: dict[str, Any]) -> str:
    return str(row["item"])


async def rows() -> AsyncIterator[dict[str, Any]]:
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
    assert_type(results, BatchResults[Any, Any])
    assert_type(results[0], BatchResult[Any, Any])
    assert_type(results.failed, list[BatchResult[Any, Any]])
    assert_type(results.success_rate, float)
    assert_type(results.report, BatchReport)
    assert_type(await processor.retry_failed(results), BatchResults[Any, Any])
    for result in results:
        assert_type(result.index, int)
        assert_type(result.success, bool)
        assert_type(result.error, str | None)
        assert_type(result.status, Literal["ok", "failed", "timed_out", "cancelled", "resumed"])
        assert_type(result.exception, BaseException | None)
        assert_type(result.execution_time, float)
        assert_type(result.metadata, dict[str, Any])
        assert_type(result.trace_id, str | None)
    async for streamed in BatchProcessor(fetch).batch_as_completed(rows()):
        assert_type(streamed, BatchResult[dict[str, Any], list[str]])
    async with BatchProcessor(blocking).batch_as_completed(range(10)) as stream:
        assert_type(await anext(stream), BatchResult[int, str])
    try:
        await BatchProcessor(FunctionNode(double)).batch(x for x in range(3))
    except ItemFailedError as error:
        assert_type(error.result, BatchResult[Any, Any])
    return len(results)


async def inferred() -> None:
    assert_type(BatchProcessor(double), BatchProcessor[int, int])
    assert_type(BatchProcessor(blocking), BatchProcessor[int, str])
    assert_type(BatchProcessor(maybe), BatchProcessor[int, float | None])
    assert_type(BatchProcessor(Length("length")), BatchProcessor[str, int])
    assert_type(BatchProcessor(Shout(), 5), BatchProcessor[str, bytes])
    assert_type(BatchProcessor(tell), BatchProcessor[City, str])
    assert_type(BatchProcessor(fetch), BatchProcessor[dict[str, Any], list[str]])
    assert_type(BatchProcessor(lengths, 5, False), BatchProcessor[dict[str, Any], dict[str, int]])
    assert_type(BatchProcessor(FunctionNode(double)), BatchProcessor[int, int])
    assert_type(BatchProcessor(FunctionNode(blocking, "named")), BatchProcessor[int, str])
    assert_type(BatchProcessor(Fetch()), BatchProcessor[Any, Any])
    assert_type(BatchProcessor(Foreign()), BatchProcessor[Any, Any])
    assert_type(BatchProcessor(str.upper), BatchProcessor[str, str])
    BatchProcessor(lambda x: x > 1)
    results = await BatchProcessor(blocking, executor="processes").batch([1, 2])
    assert_type(results, BatchResults[int, str])
    assert_type(results.outputs, list[str | None])
    assert_type(results.succeeded, list[BatchResult[int, str, Never]])
    assert_type([result.output for result in results.succeeded], list[str])
    assert_type(results.failed, list[BatchResult[int, str]])
    assert_type(results[0].output, str | None)
    assert_type(results[0].input_data, int)
    cities: list[City] = [{"name": "Oslo"}]
    assert_type(await BatchProcessor(tell).batch(cities), BatchResults[City, str])


async def one_line() -> None:
    results = await flowrt.map(double, [1, 2], max_concurrency=2, name="nightly")
    assert_type(results, BatchResults[int, int])
    assert_type(results.outputs, list[int | None])
    complete = results.raise_for_failures()
    assert_type(complete, BatchResults[int, int, Never])
    assert_type(complete.outputs, list[int])
    assert_type(complete[0].output, int)
    assert_type(sum(result.output for result in complete), int)
    results = complete  # it is still what it was
    assert_type((await flowrt.map(maybe, [1])).raise_for_failures().outputs, list[float | None])
    assert_type(await BatchProcessor(double).retry_failed(complete), BatchResults[int, int])
    table: list[dict[str, Any]] = [{"name": "Oslo"}]
    assert_type(await flowrt.map(fetch, table, retry=3), BatchResults[dict[str, Any], list[str]])
    assert_type(await flowrt.map(blocking, range(3), rate_limit="100/s"), BatchResults[int, str])
    assert_type(await flowrt.map(Length("length"), ["a"]), BatchResults[str, int])
    assert_type(await flowrt.map(lambda x: 2 * x, [1]), BatchResults[int, int])


@flowrt.node(max_concurrency=5, item_timeout=2)
async def triple(x: int) -> float:
    return 3 * x


@flowrt.node
def quadruple(x: int) -> str:
    return str(4 * x)


async def decorated() -> None:
    assert_type(await triple(1), float)
    assert_type(quadruple(1), str)
    assert_type(await triple.map(range(3), max_concurrency=1), BatchResults[int, float])
    assert_type(await flowrt.map(triple, range(3)), BatchResults[int, float])
    assert_type(BatchProcessor(quadruple), BatchProcessor[int, str])
    assert_type(quadruple.processor, BatchProcessor[int, str])


def even(x: int) -> bool:
    return x % 2 == 0


async def longest(sofar: str, text: str) -> str:
    return max(sofar, text, key=len)


class Line(TypedDict):
    price: float


class LineInput(TypedDict):
    item: Line


async def of_line(data: LineInput) -> float:
    return data["item"]["price"]


async def of_line_result(data: LineInput) -> NodeResult[float]:
    return NodeResult(True, data["item"]["price"])


def plainly_of_line(data: LineInput) -> float:
    return data["item"]["price"]


class OwnMap(MapNode[str]):
    def __init__(self) -> None:
        super().__init__("own", child, max_concurrency=5, name="Own")


async def nodes() -> NodeResult:
    workflow = WorkflowContext(workflow_id="w")
    map_node = MapNode("m", child, output_key="out", continue_on_error=False)
    assert_type(map_node, MapNode[str])
    assert_type(MapNode("m", lengths), MapNode[dict[str, int]])
    assert_type(MapNode("m", of_line), MapNode[float])
    assert_type(MapNode("m", of_line_result), MapNode[float])
    assert_type(MapNode("m", plainly_of_line), MapNode[float])
    assert_type(MapNode("m", Fetch()), MapNode[Any])
    assert_type(MapNode("m", Foreign()), MapNode[Any])
    assert_type(await OwnMap().execute(NodeContext("m", "map", {"items": [1]}), workflow), NodeResult[MapOutput[str]])
    mapped = await map_node.execute(NodeContext("m", "map", {"items": [1]}), workflow)
    assert_type(mapped, NodeResult[MapOutput[str]])
    if mapped.output is not None:
        assert_type(mapped.output["out"], list[str | None])
        assert_type(mapped.output["failed"], int)
    assert_type(BatchProcessor(map_node), BatchProcessor[Mapping[str, Any], MapOutput[str]])

    assert_type(FilterNode("f", even), FilterNode[int])
    assert_type(FilterNode("f", lambda x: x > 1), FilterNode[Any])
    assert_type(FilterNode[int]("f", lambda x: x > 1), FilterNode[int])
    kept = await FilterNode("f", even).execute(NodeContext("f", "filter", mapped.output or {}), workflow)
    assert_type(kept, NodeResult[FilterOutput[int]])
    if kept.output is not None:
        assert_type(kept.output["filtered"], list[int])
        assert_type(kept.output["original_count"], int)

    assert_type(ReduceNode("r", longest, ""), ReduceNode[str])
    assert_type(ReduceNode[float]("r", lambda a, b: a + b, 0), ReduceNode[float])
    folded = await ReduceNode("r", longest, "").execute(NodeContext("r", "reduce", {"items": ["a"]}), workflow)
    assert_type(folded, NodeResult[ReduceOutput[str]])
    if folded.output is not None:
        assert_type(folded.output["result"], str)
        assert_type(folded.output["processed_count"], int)

    either = RaceNode("either", [Fetch(), double])
    assert_type(await race([Length("a"), Length("b")], "text"), NodeResult[int])
    assert_type(await race([double, double], 5), NodeResult[int])
    return await race([either, Fetch(), blocking], {"x": 1}, workflow)


async def service() -> str | None:
    async with Runtime(service_name="svc", metrics_port=0, log_format="json", log_level="warning") as runtime:
        return runtime.metrics_url


assert_type(run(batches(), metrics_port=9464), int)
assert_type(flowrt.run(nodes()), NodeResult[Any])
assert_type(flowrt.run(flowrt.map(double, [1, 2])), BatchResults[int, int])
assert_type(asyncio.run(service()), str | None)
