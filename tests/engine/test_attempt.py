"""Attempts: an async function is called directly, with the same outcome as through its node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowrt import BatchProcessor, BatchResult, FunctionNode, NodeResult, RetryPolicy
from flowrt.engine.attempt import make_direct
from flowrt.executors import executor_of
from flowrt.model import Rejected

Run = Callable[[Any], Any]


async def act_on(x: Any) -> Any:
    """Fail or return in the way that the input names."""
    await asyncio.sleep(0)
    match x:
        case "raise":
            raise LookupError("lost")
        case "stop":
            raise StopIteration
        case "result":
            return NodeResult(True, 1, metadata={"a": 1})
        case "no luck":
            return NodeResult(False, error="no luck")
        case [*_]:
            x.append(3)
    return x


class Louder(FunctionNode):
    """Function node with an `execute` of its own."""

    async def execute(self, node_context: Any, workflow_context: Any) -> NodeResult:
        result = await super().execute(node_context, workflow_context)
        return NodeResult(result.success, f"{result.output}!")


def session_of(node: Any, where: str | None = None) -> Any:
    return executor_of(where).open(node, 1)


def test_only_an_async_function_on_the_loop_takes_the_direct_path() -> None:
    node = FunctionNode(act_on)
    assert make_direct(node, session_of(node).invoke) is not None
    threads = session_of(node, "threads")
    assert make_direct(node, threads.invoke) is None
    threads.close()
    for other in (Louder(act_on), FunctionNode(len)):
        session = session_of(other)
        assert make_direct(other, session.invoke) is None
        session.close()


def test_node_with_a_replaced_execute_is_called_through_it(run_virtual: Run) -> None:
    async def replaced(node_context: Any, workflow_context: Any) -> NodeResult:
        return NodeResult(True, "replaced")

    node = FunctionNode(act_on)
    node.execute = replaced  # type: ignore[method-assign]
    (result,) = run_virtual(BatchProcessor(node).batch([1]))
    assert result.output == "replaced"


def fields(result: BatchResult) -> tuple[Any, ...]:
    return (result.status, result.output, result.error, result.error_type, result.metadata, result.attempts)


@pytest.mark.parametrize(
    "data",
    [1, 0, None, {}, "raise", "stop", "result", "no luck", [1, 2], Rejected("line 3 is no JSON", input_data="{")],
    ids=repr,
)
def test_direct_call_ends_like_a_call_through_the_node(data: Any, run_virtual: Run) -> None:
    (direct,) = run_virtual(BatchProcessor(act_on).batch([data]))
    never = RetryPolicy(attempts=1)  # with a policy, the attempt goes through the node
    (through,) = run_virtual(BatchProcessor(act_on, retry=never).batch([data]))
    assert fields(direct) == fields(through)
    if isinstance(data, list):
        assert data == [1, 2], "the function has its own copy"
