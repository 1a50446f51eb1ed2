"""Map, filter and reduce nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from flowrt import BaseNode, FilterNode, MapNode, NodeContext, NodeResult, ReduceNode, WorkflowContext
from flowrt.engine.batch_run import active_batches

Run = Callable[[Any], Any]


class Double(BaseNode):
    def __init__(self) -> None:
        super().__init__(node_id="double", node_type="math", name="Double", config={})

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        item = node_context.get_input("item")
        await asyncio.sleep(0)
        if item == 13:
            raise ValueError("unlucky")
        return NodeResult(success=True, output=item * 2)


def given(value: Any, key: str = "items") -> NodeContext:
    return NodeContext("n", "t", {key: value})


async def arange(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@pytest.mark.parametrize("make", [list, tuple, range, iter, set, lambda r: (i for i in r), lambda r: arange(len(r))])
def test_map_takes_any_iterable_and_keeps_its_order(make: Callable[[range], Any], run: Run) -> None:
    items = range(5) if make is range else make(range(5))
    result = run(MapNode("m", Double()).execute(given(items), WorkflowContext()))
    assert result == NodeResult(True, {"results": [0, 2, 4, 6, 8], "total": 5, "succeeded": 5, "failed": 0})


@pytest.mark.parametrize("items", ["text", b"bytes", {"a": 1}, 5, None])
@pytest.mark.parametrize(
    "node",
    [MapNode("m", Double()), FilterNode("f", bool), ReduceNode("r", lambda a, b: a, 0)],
    ids=["map", "filter", "reduce"],
)
def test_input_that_is_not_a_collection_is_a_failed_result(node: BaseNode, items: Any, run: Run) -> None:
    result = run(node.execute(given(items), WorkflowContext()))
    assert not result.success
    assert type(items).__name__ in result.error


@pytest.mark.parametrize(
    "node",
    [
        MapNode("m", Double(), input_key="wanted"),
        FilterNode("f", bool, input_key="wanted"),
        ReduceNode("r", lambda a, b: a, 0, input_key="wanted"),
    ],
    ids=["map", "filter", "reduce"],
)
def test_missing_key_is_reported_with_the_existing_keys(node: BaseNode, run: Run) -> None:
    result = run(node.execute(given([1], "offered"), WorkflowContext()))
    assert not result.success
    assert "'wanted'" in result.error
    assert "'offered'" in result.error


def test_map_keeps_successes_aligned_when_items_fail(run: Run) -> None:
    result = run(MapNode("m", Double(), max_concurrency=3).execute(given([1, 13, 3, 13, 0]), WorkflowContext()))
    assert not result.success
    assert result.output == {"results": [2, None, 6, None, 0], "total": 5, "succeeded": 3, "failed": 2}
    assert result.metadata["errors"] == [{"index": 1, "error": "unlucky"}, {"index": 3, "error": "unlucky"}]
    assert "unlucky" in result.error


def test_fail_fast_map_starts_no_items_after_a_failure(run: Run) -> None:
    started: list[int] = []

    async def child(data: dict[str, int]) -> int:
        started.append(data["item"])
        await asyncio.sleep(0.001)
        if data["item"] == 2:
            raise ValueError("two")
        await asyncio.sleep(10)
        return 0

    node = MapNode("m", child, max_concurrency=3, continue_on_error=False)
    result = run(node.execute(given(range(100)), WorkflowContext()))
    assert not result.success
    assert result.error.endswith("the first: item 2: two")
    assert len(started) <= 4


@pytest.mark.parametrize("make", [list, iter], ids=["list", "iterator"])
def test_map_whose_batch_was_cut_short_fails(make: Callable[[range], Any], run: Run) -> None:
    async def node(data: dict[str, int]) -> int:
        if data["item"] == 2:
            active_batches(asyncio.get_running_loop())[0].drain("shutting down")
        return data["item"]

    result = run(MapNode("m", node, max_concurrency=1).execute(given(make(range(5))), WorkflowContext()))
    assert not result.success
    assert result.output["results"][:3] == [0, 1, 2]
    assert result.output["succeeded"] == 3
    assert result.error == "its batch was ended before all of its items had run"


def test_map_bounds_concurrency_and_shares_the_workflow(run: Run) -> None:
    running, most = 0, 0

    class Child(BaseNode):
        def __init__(self) -> None:
            super().__init__("child")

        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return NodeResult(True, workflow_context.get_global_variable("tenant"))

    workflow = WorkflowContext()
    workflow.set_global_variable("tenant", "acme")
    result = run(MapNode("m", Child(), max_concurrency=4).execute(given(range(20)), workflow))
    assert most == 4
    assert result.output["results"] == ["acme"] * 20


def test_map_over_no_items_succeeds(run: Run) -> None:
    result = run(MapNode("m", Double()).execute(given([]), WorkflowContext()))
    assert result == NodeResult(True, {"results": [], "total": 0, "succeeded": 0, "failed": 0})


def test_source_that_raises_is_a_failed_result(run: Run) -> None:
    def source() -> Any:
        yield 1
        raise OSError("disk gone")

    result = run(MapNode("m", Double()).execute(given(source()), WorkflowContext()))
    assert not result.success
    assert "disk gone" in result.error
    assert result.output["results"] == [2]


@pytest.mark.parametrize("continue_on_error", [True, False])
def test_source_error_is_reported_beside_failed_items(run: Run, continue_on_error: bool) -> None:
    async def source() -> AsyncIterator[int]:
        yield 0
        yield 1
        raise OSError("disk gone")

    async def child(data: dict[str, int]) -> int:
        await asyncio.sleep(0.001)
        if data["item"] == 1:
            raise ValueError("unlucky")
        return data["item"]

    node = MapNode("m", child, continue_on_error=continue_on_error)
    result = run(node.execute(given(source()), WorkflowContext()))
    assert "1 of 2 items did not succeed; the first: item 1: unlucky" in result.error
    assert "stopped by OSError: disk gone" in result.error


def test_returned_failure_that_stops_the_map_is_reported_once(run: Run) -> None:
    async def child(data: dict[str, int]) -> NodeResult:
        return NodeResult(False, error="busy")

    node = MapNode("m", child, max_concurrency=1, continue_on_error=False)
    result = run(node.execute(given(range(3)), WorkflowContext()))
    assert result.error == "1 of 1 items did not succeed; the first: item 0: busy"


@pytest.mark.parametrize("key", ["total", "succeeded", "failed"])
def test_output_key_of_a_count_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        MapNode("m", Double(), output_key=key)


def test_settings_are_checked_at_construction() -> None:
    with pytest.raises(ValueError, match="filtered_count"):
        FilterNode("f", bool, output_key="filtered_count")
    with pytest.raises(ValueError, match="processed_count"):
        ReduceNode("r", lambda a, b: a, 0, output_key="processed_count")
    with pytest.raises(ValueError, match=r"max_concurrency .* not 0"):
        MapNode("m", Double(), max_concurrency=0)
    with pytest.raises(TypeError, match="filter_fn"):
        FilterNode("f", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Double is a class: pass an instance"):
        MapNode("m", Double)


def test_filter_keeps_order_with_sync_and_async_predicates(run: Run) -> None:
    async def odd(x: int) -> bool:
        await asyncio.sleep(0)
        return bool(x % 2)

    for predicate in (odd, lambda x: x % 2):
        result = run(FilterNode("f", predicate).execute(given(range(6)), WorkflowContext()))
        assert result == NodeResult(True, {"filtered": [1, 3, 5], "original_count": 6, "filtered_count": 3})


def test_predicate_that_raises_fails_with_the_item(run: Run) -> None:
    result = run(FilterNode("f", lambda x: 1 / (x - 2)).execute(given(range(6)), WorkflowContext()))
    assert not result.success
    assert "item 2" in result.error
    assert "ZeroDivisionError" in result.error


def test_reduce_folds_from_the_left_with_sync_and_async_functions(run: Run) -> None:
    async def join(a: str, b: str) -> str:
        await asyncio.sleep(0)
        return a + b

    for function in (join, lambda a, b: a + b):
        result = run(ReduceNode("r", function, "<").execute(given(["a", "b", "c"]), WorkflowContext()))
        assert result == NodeResult(True, {"result": "<abc", "processed_count": 3})


def test_mutable_initial_value_is_not_shared_between_runs(run: Run) -> None:
    def collect(kept: dict[str, list[int]], item: int) -> dict[str, list[int]]:
        kept["all"].append(item)
        return kept

    start: dict[str, list[int]] = {"all": []}
    node = ReduceNode("r", collect, start)
    for _ in range(2):
        assert run(node.execute(given([1, 2]), WorkflowContext())).output["result"] == {"all": [1, 2]}
    assert start == {"all": []}


def test_map_filter_and_reduce_form_a_pipeline(run: Run) -> None:
    async def main() -> Any:
        workflow = WorkflowContext()
        mapped = await MapNode("m", Double(), output_key="doubled").execute(given(range(10)), workflow)
        kept = await FilterNode("f", lambda x: x > 8, input_key="doubled").execute(
            NodeContext("f", "filter", mapped.output), workflow
        )
        return await ReduceNode("r", lambda a, b: a + b, 0, input_key="filtered").execute(
            NodeContext("r", "reduce", kept.output), workflow
        )

    assert run(main()).output == {"result": 10 + 12 + 14 + 16 + 18, "processed_count": 5}
