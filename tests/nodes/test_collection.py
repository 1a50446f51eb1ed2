"""Map, filter and reduce nodes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
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
        if data["item"] == 1:
            await asyncio.sleep(0.001)  # until the source has failed, and item 0 has ended
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


NODES = {
    "map": lambda fn: MapNode("m", lambda data: fn(data["item"]), max_concurrency=1, continue_on_error=False),
    "filter": lambda fn: FilterNode("f", fn),
    "reduce": lambda fn: ReduceNode("r", lambda _, item: fn(item), 0),
}


class Rows:
    """Async iterator that is not a generator, and counts how often it was closed."""

    def __init__(self, broken_at: int = -1, *, broken_close: bool = False) -> None:
        self.broken_at = broken_at
        self.broken_close = broken_close
        self.pulled = self.closed = 0

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0)
        if self.pulled == self.broken_at:
            raise OSError("the cursor was lost")
        if self.pulled == 10:
            raise StopAsyncIteration
        self.pulled += 1
        return self.pulled - 1

    async def aclose(self) -> None:
        self.closed += 1
        if self.broken_close:
            raise OSError("the connection was lost")


def three_is_wrong(item: int) -> bool:
    if item == 3:
        raise ValueError("three")
    return True


@pytest.mark.parametrize("make", NODES.values(), ids=NODES)
def test_async_source_is_closed_after_a_failed_item(make: Any, run: Run) -> None:
    closed = []

    async def rows() -> AsyncIterator[int]:
        try:
            for index in range(100):
                yield index
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    generator, iterator = rows(), Rows()
    for source in (generator, iterator):
        result = run(make(three_is_wrong).execute(given(source), WorkflowContext()))
        assert "three" in result.error
    assert (closed, iterator.closed) == ([True], 1)


@pytest.mark.parametrize("make", [NODES["filter"], NODES["reduce"]], ids=["filter", "reduce"])
def test_async_source_is_closed_when_its_node_is_cancelled(make: Any, run: Run) -> None:
    source = Rows()

    async def endless(_: int) -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(make(endless).execute(given(source), WorkflowContext()), 0.01)

    run(main())
    assert source.closed == 1


def lost_cursor() -> Iterator[int]:
    yield 1
    yield 2
    raise OSError("the cursor was lost")


@pytest.mark.parametrize("source", [lost_cursor, lambda: Rows(broken_at=2)], ids=["sync", "async"])
@pytest.mark.parametrize("kind", NODES)
def test_source_error_is_not_blamed_on_the_function(kind: str, source: Any, run: Run) -> None:
    result = run(NODES[kind](bool).execute(given(source()), WorkflowContext()))
    assert not result.success
    place = "stopped by " if kind == "map" else "the source of the items failed at item 2: "
    assert result.error == f"{place}OSError: the cursor was lost"


def test_source_whose_iteration_cannot_start_is_blamed(run: Run) -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise OSError("the cursor was lost")

    result = run(FilterNode("f", bool).execute(given(Broken()), WorkflowContext()))
    assert result.error == "the source of the items failed at item 0: OSError: the cursor was lost"


class _NeverStarts:
    def __iter__(self) -> Iterator[int]:
        raise OSError("the cursor was lost")


class _NeverStartsAsync:
    def __aiter__(self) -> AsyncIterator[int]:
        raise OSError("the cursor was lost")


@pytest.mark.parametrize("make", [_NeverStarts, _NeverStartsAsync])
def test_map_whose_iteration_cannot_start_is_a_failed_result(make: Callable[[], Any], run: Run) -> None:
    result = run(MapNode("m", _empty).execute(given(make()), WorkflowContext()))
    assert not result.success
    assert result.error == "stopped by OSError: the cursor was lost"
    assert result.output == {"results": [], "total": 0, "succeeded": 0, "failed": 0}


class _Emptied(BaseNode):
    """Returns its item's values, and removes them from its input."""

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        return NodeResult(True, await _empty(node_context.input_data))


async def _empty(data: dict[str, Any]) -> list[int]:
    values = [*data["item"]]
    data.pop("item").clear()
    return values


@pytest.mark.parametrize("child", [_empty, _Emptied("child", "child")])
def test_map_child_that_changes_its_input_changes_a_copy(child: Any, run: Run) -> None:
    items = [[1], [2, 3]]
    result = run(MapNode("m", child).execute(given(items), WorkflowContext()))
    assert result.output["results"] == items == [[1], [2, 3]]


def test_map_runs_items_that_a_child_adds_to_the_list(run: Run) -> None:
    items = [1, 2]

    async def child(data: dict[str, int]) -> int:
        if data["item"] < 5:
            items.append(data["item"] + 4)
        return data["item"]

    result = run(MapNode("m", child, max_concurrency=1).execute(given(items), WorkflowContext()))
    assert result.output == {"results": [1, 2, 5, 6], "total": 4, "succeeded": 4, "failed": 0}


def test_source_that_fails_to_close_is_blamed_unless_an_item_failed_before(run: Run) -> None:
    result = run(FilterNode("f", bool).execute(given(Rows(broken_close=True)), WorkflowContext()))
    assert result.error == "the source of the items failed at item 10: OSError: the connection was lost"
    result = run(FilterNode("f", three_is_wrong).execute(given(Rows(broken_close=True)), WorkflowContext()))
    assert result.error == "filter_fn failed at item 3: ValueError: three"


def test_initial_value_that_cannot_be_copied_is_named(run: Run) -> None:
    node = ReduceNode("r", lambda a, _: a, threading.Lock())
    result = run(node.execute(given([1]), WorkflowContext()))
    assert "initial_value cannot be copied: TypeError" in result.error
    assert "item" not in result.error


def test_settings_of_a_map_can_be_read_and_set(run: Run) -> None:
    running = most = 0

    async def child(data: dict[str, int]) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        if data["item"] == 0:
            raise ValueError("zero")
        return data["item"]

    node = MapNode("m", child, "wanted", "found", 1, continue_on_error=False, name="Map", config={"a": 1})
    assert (node.input_key, node.output_key, node.max_concurrency, node.continue_on_error) == (
        "wanted",
        "found",
        1,
        False,
    )
    assert (node.node_id, node.node_type, node.name, node.config) == ("m", "map", "Map", {"a": 1})
    assert node.child_node.node_id == "child"
    node.input_key, node.output_key, node.max_concurrency, node.continue_on_error = "items", "results", 4, True
    output = run(node.execute(given(range(12)), WorkflowContext())).output
    assert output == {"results": [None, *range(1, 12)], "total": 12, "succeeded": 11, "failed": 1}
    assert most == node.max_concurrency == 4
    node.child_node = Double()
    assert node.max_concurrency == 4
    assert run(node.execute(given([1, 2]), WorkflowContext())).output["results"] == [2, 4]


def test_setting_of_a_map_is_checked_when_it_is_set() -> None:
    node = MapNode("m", Double())
    with pytest.raises(ValueError, match="max_concurrency must be an integer of at least 1, not 0"):
        node.max_concurrency = 0
    with pytest.raises(ValueError, match="'total' is the key of a count"):
        node.output_key = "total"
    with pytest.raises(TypeError, match="Double is a class"):
        node.child_node = Double
    assert (node.max_concurrency, node.output_key) == (10, "results")


def test_map_settings_after_max_concurrency_are_keywords() -> None:
    with pytest.raises(TypeError, match="positional"):
        MapNode("m", Double(), "items", "results", 10, "Map")  # type: ignore[misc]
