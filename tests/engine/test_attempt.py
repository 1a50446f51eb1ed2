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


class Doubled(FunctionNode):
    """Function node with a `call` of its own."""

    def call(self, node_context: Any, workflow_context: Any) -> Any:
        return NodeResult(True, 2 * self.fn(node_context.input_data))


@pytest.mark.parametrize(
    ("node", "where", "direct"),
    [
        (FunctionNode(act_on), "loop", True),
        (FunctionNode(act_on), "threads", False),
        (Louder(act_on), "loop", False),
        (FunctionNode(len), "loop", True),
        (FunctionNode(len), "threads", True),
        (Louder(len), "loop", False),
        (Doubled(len), "threads", False),
    ],
)
def test_only_a_function_that_is_all_of_its_node_takes_the_direct_path(
    node: FunctionNode, where: str, direct: bool
) -> None:
    session = session_of(node, where)
    assert (make_direct(node, session.invoke) is not None) is direct
    session.close()


def test_plain_functions_end_alike_directly_and_through_their_node(run: Run) -> None:
    def act(x: Any) -> Any:
        match x:
            case "raise":
                raise LookupError("lost")
            case "stop":
                raise StopIteration
            case "result":
                return NodeResult(False, error="no luck", metadata={"a": 1})
            case "coroutine":
                return act_on(5)
            case "generator":
                return (y for y in ())
        return x

    data = [1, None, "raise", "result", "coroutine", "generator", [1, 2], Rejected("no JSON", input_data="{")]
    direct = run(BatchProcessor(act, 3).batch(data))
    through_node = run(BatchProcessor(act, 3, retry=RetryPolicy(1)).batch(data))
    assert list(map(fields, direct)) == list(map(fields, through_node))
    (stopped,) = run(BatchProcessor(act).batch(["stop"]))
    assert stopped.error_type == "RuntimeError"
    assert "StopIteration" in stopped.error


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


def test_node_that_changes_a_flat_input_changes_a_copy(run: Run) -> None:
    async def node(data: dict[str, int]) -> int:
        return data.pop("x")

    async def main() -> list[BatchResult]:
        return await BatchProcessor(node).batch([{"x": 1}, {"x": 2}])

    assert [(result.input_data, result.output) for result in run(main())] == [({"x": 1}, 1), ({"x": 2}, 2)]
