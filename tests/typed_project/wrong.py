"""A user's project with a mistake in every marked line: mypy's code of it, then pyright's rule."""

# ruff: noqa: F401, F841, B018  # the mistakes are intended

from __future__ import annotations

import flowrt
from flowrt import (  # attr-defined | -
    BaseNode,
    BatchProcesor,  # - | reportAttributeAccessIssue
    BatchProcessor,
    BatchResult,
    FilterNode,
    MapNode,
    NodeContext,
    NodeResult,
    ReduceNode,
    Runtime,
    WorkflowContext,
    run,
)


class Fetch(BaseNode):
    async def execute(  # override | reportIncompatibleMethodOverride
        self, node_context: NodeContext, workflow_context: WorkflowContext
    ) -> dict[str, int]:
        return {}


class Lazy(BaseNode):
    pass


async def double(x: int) -> int:
    return 2 * x


async def listed(row: dict[str, int]) -> list[str]:
    return list(row)


def even(x: int) -> bool:
    return x % 2 == 0


async def longest(sofar: str, text: str) -> str:
    return max(sofar, text, key=len)


@flowrt.node(max_concurrency=5)
async def configured(x: int) -> int:
    return x


class Text(BaseNode[str, int]):
    async def execute(self, node_context: NodeContext[str], workflow_context: WorkflowContext) -> NodeResult[int]:
        return NodeResult(True, "text")  # arg-type | reportReturnType


async def main() -> int:
    BatchProcessor(double, "10")  # call-overload | reportCallIssue
    BatchProcessor(double, 10, True, 5)  # call-overload | reportCallIssue
    BatchProcessor(double, item_timeout="5 s")  # call-overload | reportCallIssue
    BatchProcessor(double, retires=3)  # call-overload | reportCallIssue
    BatchProcessor(double, executor="proceses")  # call-overload | reportCallIssue
    BatchProcessor(42)  # call-overload | reportCallIssue
    Lazy("lazy")  # abstract | reportAbstractUsage
    await flowrt.map(double, [1], retires=3)  # call-overload | reportCallIssue
    await flowrt.map(double, 5)  # call-overload | reportCallIssue
    await flowrt.map(double, ["one"])  # arg-type | reportCallIssue
    await flowrt.map(Text("text"), [1])  # misc | reportCallIssue
    flowrt.node(max_concurrency="5")  # call-overload | reportArgumentType
    await configured("one")  # arg-type | reportArgumentType
    await configured.map(["one"])  # list-item | reportArgumentType
    NodeResult("yes", output=1)  # arg-type | reportArgumentType
    MapNode("map", double)  # arg-type | reportCallIssue
    MapNode("map", listed, max_concurrency="5")  # call-overload | reportCallIssue
    MapNode("map", listed, retries=3)  # call-overload | reportCallIssue
    FilterNode[str]("filter", even)  # arg-type | reportArgumentType
    FilterNode("filter", 5)  # arg-type | reportArgumentType
    results = await BatchProcessor(double).batch(["one"])  # list-item | reportArgumentType
    number: int = results.outputs[0]  # assignment | reportAssignmentType
    text: str | None = results[0].output  # assignment | reportAssignmentType
    words: list[str] = results.raise_for_failures().outputs  # assignment | reportAssignmentType
    for failure in results.failed:
        failure.output + 1  # operator | reportOptionalOperand
    for success in results.succeeded:
        success.output.upper()  # attr-defined | reportAttributeAccessIssue
    context = NodeContext("map", "map", {"items": [1]})
    mapped = await MapNode("map", listed).execute(context, WorkflowContext())
    mapped.output["results"]  # index | reportOptionalSubscript
    if mapped.output is not None:
        rows: list[list[int] | None] = mapped.output["results"]  # assignment | reportAssignmentType
        mapped.output["total"].upper()  # attr-defined | reportAttributeAccessIssue
    kept = await FilterNode("filter", even).execute(context, WorkflowContext())
    folded = await ReduceNode("reduce", longest, "").execute(context, WorkflowContext())
    if kept.output is not None and folded.output is not None:
        names: list[str] = kept.output["filtered"]  # assignment | reportAssignmentType
        folded.output["result"] + 1  # operator | reportOperatorIssue
    await BatchProcessor(listed).batch([1])  # list-item | reportArgumentType
    await BatchProcessor(double).batch(5)  # arg-type | reportArgumentType
    results.sucess_rate  # attr-defined | reportAttributeAccessIssue
    for result in results:
        result.outptu  # attr-defined | reportAttributeAccessIssue
        result.error.upper()  # union-attr | reportOptionalMemberAccess
        if result.status == "done":  # comparison-overlap | -
            return result.index
    async for streamed in BatchProcessor(double).batch(range(3)):  # attr-defined | reportGeneralTypeIssues
        print(streamed)
    first: BatchResult = results.failed  # assignment | reportAssignmentType
    return first  # return-value | reportReturnType


class Strict:
    def __init__(self) -> None:
        Runtime(port=9464)  # call-arg | reportCallIssue
        Runtime(log_level="verbose")  # arg-type | reportArgumentType
        flowrt.runn(main())  # attr-defined | reportAttributeAccessIssue
        text: str = run(main())  # assignment | reportAssignmentType
        run(main)  # arg-type | reportArgumentType
        run(main(), log_level="verbose")  # arg-type | reportArgumentType
        print(text)
