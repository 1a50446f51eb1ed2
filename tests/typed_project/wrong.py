"""A user's project with a mistake in every marked line, which mypy reports."""

# ruff: noqa: F401, B018  # the mistakes are intended

from __future__ import annotations

import flowrt
from flowrt import (  # attr-defined
    BaseNode,
    BatchProcesor,
    BatchProcessor,
    BatchResult,
    NodeContext,
    NodeResult,
    Runtime,
    WorkflowContext,
    run,
)


class Fetch(BaseNode):
    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> dict[str, int]:  # override
        return {}


class Lazy(BaseNode):
    pass


async def double(x: int) -> int:
    return 2 * x


async def main() -> int:
    processor = BatchProcessor(double, "10")  # arg-type
    BatchProcessor(double, 10, True, 5)  # call-arg
    BatchProcessor(double, item_timeout="5 s")  # arg-type
    BatchProcessor(double, retires=3)  # call-arg
    Lazy("lazy")  # abstract
    await flowrt.map(double, [1], retires=3)  # call-arg
    await flowrt.map(double, 5)  # arg-type
    flowrt.node(max_concurrency="5")  # call-overload
    NodeResult("yes", output=1)  # arg-type
    results = await processor.batch(5)  # arg-type
    results.sucess_rate  # attr-defined
    for result in results:
        result.outptu  # attr-defined
        result.error.upper()  # union-attr
        if result.status == "done":  # comparison-overlap
            return result.index
    async for streamed in processor.batch(range(3)):  # attr-defined
        print(streamed)
    first: BatchResult = results.failed  # assignment
    return first  # return-value


class Strict:
    def __init__(self) -> None:
        Runtime(port=9464)  # call-arg
        flowrt.runn(main())  # attr-defined
        text: str = run(main())  # assignment
        run(main)  # arg-type
        print(text)
