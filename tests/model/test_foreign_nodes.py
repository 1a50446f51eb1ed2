"""Nodes and results of other libraries, and the contexts that they use."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from flowrt import BaseNode, BatchProcessor, MapNode, NodeContext, NodeResult, RaceNode, WorkflowContext, race
from flowrt.journal import name_of_node
from flowrt.model.foreign_node import as_node
from tests.conftest import Run


@dataclass
class ForeignResult:
    success: bool
    output: Any = None
    next_node_id: str | None = None
    error: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class ForeignBaseNode:
    def __init__(self, node_id: str, node_type: str, name: str, config: dict[str, Any]) -> None:
        self.node_id, self.node_type, self.name, self.config = node_id, node_type, name, config


class Doubles(ForeignBaseNode):
    async def execute(self, node_context: Any, workflow_context: Any) -> ForeignResult:
        await asyncio.sleep(0)
        item = node_context.get_input("item")
        node_context.set_variable("item", item)
        workflow_context.set_global_variable("seen", workflow_context.get_global_variable("seen", 0) + 1)
        if item == 3:
            return ForeignResult(False, error="three", metadata={"why": "odd"})
        return ForeignResult(True, 2 * node_context.get_variable("item"), "next", metadata={"cost": item})


class Blocking:
    """A duck-typed node with nothing but a plain `execute`."""

    def execute(self, node_context: Any, workflow_context: Any) -> ForeignResult:
        assert threading.current_thread() is not threading.main_thread()
        return ForeignResult(True, node_context.input_data + 1)


def doubles() -> Doubles:
    return Doubles("double", "math", "Double", {"by": 2})


def test_foreign_node_runs_in_a_batch(run: Run) -> None:
    workflow = WorkflowContext()
    results = run(BatchProcessor(doubles(), 3).batch([{"item": i} for i in range(5)], workflow))
    assert [result.output for result in results] == [0, 2, 4, None, 8]
    assert [result.error for result in results] == [None, None, None, "three", None]
    assert [result.metadata for result in results][2:4] == [{"cost": 2}, {"why": "odd"}]
    assert workflow.global_variables == {"seen": 5}


def test_foreign_node_keeps_its_names(run: Run) -> None:
    node = as_node(doubles())
    assert (node.node_id, node.node_type, node.name, node.config) == ("double", "math", "Double", {"by": 2})
    assert name_of_node(node)["code"].endswith(":Doubles")
    result = run(node.execute(NodeContext("double", "math", {"item": 1}), WorkflowContext()))
    assert (result.success, result.output, result.next_node_id) == (True, 2, "next")


def test_duck_typed_node_with_a_plain_execute_runs_in_a_thread(run: Run) -> None:
    assert [result.output for result in run(BatchProcessor(Blocking(), 2).batch([1, 2]))] == [2, 3]
    assert as_node(Blocking()).node_id == "Blocking"


def test_foreign_nodes_run_in_composite_nodes(run: Run) -> None:
    context = NodeContext("m", "map", {"items": [1, 2]})
    assert run(MapNode("m", doubles()).execute(context, WorkflowContext())).output["results"] == [2, 4]
    assert run(race([doubles(), doubles()], {"item": 4})).output == 8
    assert run(race([Blocking()], 4)).output == 5
    assert RaceNode("r", [doubles()]).nodes[0].node_id == "double"


def test_foreign_result_without_success_fails_its_item(run: Run) -> None:
    class Odd:
        async def execute(self, node_context: Any, workflow_context: Any) -> dict[str, Any]:
            return {"success": True}

    (result,) = run(BatchProcessor(Odd(), 1).batch([1]))
    assert "returned dict, not a NodeResult" in result.error


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(Doubles, "Doubles is a class"), (Blocking, "Blocking is a class"), (5, "not 5$"), ("node", "not 'node'$")],
)
def test_other_objects_are_no_nodes(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_node(wrong)


def test_callable_with_an_execute_of_its_own_stays_a_function(run: Run) -> None:
    class Command:
        execute = "now"

        async def __call__(self, x: int) -> int:
            return x

    assert [result.output for result in run(BatchProcessor(Command(), 1).batch([7]))] == [7]


@pytest.mark.parts  # the package comes with the bench, on one Python
def test_nodes_of_the_reference_library_run(run: Run) -> None:
    import nadoo_flow

    class Node(nadoo_flow.BaseNode):  # type: ignore[name-defined, misc]
        async def execute(self, node_context: Any, workflow_context: Any) -> Any:
            return nadoo_flow.NodeResult(success=True, output={"v": node_context.get_input("x") * 2})

    results = run(BatchProcessor(Node("n", "t", "N", {}), 2).batch([{"x": 1}, {"x": 2}]))
    assert [result.output for result in results] == [{"v": 2}, {"v": 4}]


def test_variables_belong_to_one_context() -> None:
    first, second = NodeContext("n", "t"), NodeContext("n", "t")
    first.set_variable("a", 1)
    assert (first.variables, second.variables, second.get_variable("a", "none")) == ({"a": 1}, {}, "none")
    first.variables = {"b": 2}
    assert first.get_variable("b") == 2


def test_variables_of_an_attempt_do_not_reach_the_next(run: Run) -> None:
    class Remembers(BaseNode):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            before = dict(node_context.variables)
            node_context.set_variable("seen", True)
            return NodeResult(True, before)

    assert [result.output for result in run(BatchProcessor(Remembers("r"), 1).batch([1, 2]))] == [{}, {}]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: NodeContext("n", "t", {}, 5),
        lambda: NodeResult(True, {}, "next"),
        lambda: WorkflowContext("w", {}),
    ],
)
def test_positional_arguments_whose_order_differs_elsewhere_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="positional"):
        wrong()
