"""The public API: one behaviour per test, called as the documentation calls it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

import flowrt
from flowrt import (
    BaseNode,
    BatchProcessor,
    BatchResult,
    FilterNode,
    FunctionNode,
    ItemFailedError,
    MapNode,
    NodeContext,
    NodeResult,
    RaceNode,
    ReduceNode,
    Runtime,
    WorkflowContext,
    race,
    run,
)
from flowrt.batch.results import BatchResults

ROOT = Path(__file__).parents[1]
Run = Callable[[Any], Any]
REQUIRED = inspect.Parameter.empty


class Fetch(BaseNode):
    def __init__(self) -> None:
        super().__init__(node_id="fetch", node_type="http", name="Fetch", config={})

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        return NodeResult(success=True, output={"v": node_context.input_data["x"]})


class Search(BaseNode):
    """Search engine that answers or fails after some seconds."""

    def __init__(self, node_id: str, seconds: float, error: str | None = None) -> None:
        super().__init__(node_id, "search")
        self.seconds, self.error = seconds, error
        self.cleaned_up = False

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            self.cleaned_up = True
            raise
        if self.error is not None:
            return NodeResult(success=False, error=self.error)
        return NodeResult(success=True, output={"engine": self.node_id, "query": node_context.get_input("query")})


class Flaky:
    """Node that fails for some items until it was called `until` times for each."""

    def __init__(self, failing: set[int], until: int = 10**9) -> None:
        self.failing, self.until = failing, until
        self.calls: list[int] = []

    async def __call__(self, x: int) -> int:
        await asyncio.sleep(0)
        self.calls.append(x)
        if x in self.failing and self.calls.count(x) < self.until:
            raise ConnectionError(f"no answer for {x}")
        return x * 10


async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


def given(**inputs: Any) -> NodeContext:
    return NodeContext("n", "t", inputs)


def python(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def page_at(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  # our own http URL
        return str(answer.read().decode())


# -- names and signatures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("BatchProcessor", "BatchResult", "MapNode", "FilterNode", "ReduceNode", "FunctionNode", "BaseNode"),
        *("NodeContext", "NodeResult", "WorkflowContext", "race", "run", "Runtime", "RaceNode", "ItemFailedError"),
    ],
)
def test_public_name_is_importable_from_the_package(name: str) -> None:
    assert name in flowrt.__all__
    assert callable(getattr(flowrt, name))


def test_star_import_provides_every_name_of_all() -> None:
    namespace: dict[str, Any] = {}
    exec("from flowrt import *", namespace)  # noqa: S102  # a star import is allowed at module level only
    assert set(flowrt.__all__) <= set(namespace)


POSITIONAL: list[tuple[Callable[..., Any], list[tuple[str, Any]]]] = [
    (BatchProcessor, [("node", REQUIRED), ("max_concurrency", 10), ("continue_on_error", True)]),
    (BatchProcessor.batch, [("self", REQUIRED), ("inputs", REQUIRED), ("workflow_context", None)]),
    (BatchProcessor.batch_as_completed, [("self", REQUIRED), ("inputs", REQUIRED), ("workflow_context", None)]),
    (BatchProcessor.retry_failed, [("self", REQUIRED), ("results", REQUIRED), ("workflow_context", None)]),
    (
        MapNode,
        [
            ("node_id", REQUIRED), ("child_node", REQUIRED), ("input_key", "items"), ("output_key", "results"),
            ("max_concurrency", 10),
        ],
    ),
    (FilterNode, [("node_id", REQUIRED), ("filter_fn", REQUIRED), ("input_key", "items"), ("output_key", "filtered")]),
    (
        ReduceNode,
        [
            ("node_id", REQUIRED), ("reduce_fn", REQUIRED), ("initial_value", REQUIRED), ("input_key", "items"),
            ("output_key", "result"),
        ],
    ),
    (RaceNode, [("node_id", REQUIRED), ("nodes", REQUIRED)]),
    (race, [("nodes", REQUIRED), ("input_data", REQUIRED), ("workflow_context", None)]),
    (FunctionNode, [("fn", REQUIRED)]),
    (NodeResult, [("success", REQUIRED), ("output", None)]),
    (NodeContext, [("node_id", REQUIRED), ("node_type", REQUIRED)]),
    (NodeContext.get_input, [("self", REQUIRED), ("key", REQUIRED), ("default", None)]),
]  # fmt: skip

KEYWORDS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (BatchProcessor, {"item_timeout": None, "batch_timeout": None, "executor": None, "name": None}),
    (BatchProcessor.batch, {"continue_on_error": None, "progress": False}),
    (BatchProcessor.batch_as_completed, {"continue_on_error": None, "progress": False}),
    (MapNode, {"continue_on_error": True, "name": None, "config": None}),
    (NodeResult, {"error": None, "metadata": None, "next_node_id": None}),
    (NodeContext, {"index": None, "attempt": 1, "batch_id": None}),
    (WorkflowContext, {"global_variables": None}),
]


@pytest.mark.parametrize(("function", "expected"), POSITIONAL, ids=lambda value: getattr(value, "__qualname__", ""))
def test_positional_parameters_keep_names_order_and_defaults(
    function: Callable[..., Any], expected: list[tuple[str, Any]]
) -> None:
    parameters = list(inspect.signature(function).parameters.values())[: len(expected)]
    assert [(p.name, p.default) for p in parameters] == expected
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


@pytest.mark.parametrize(("function", "expected"), KEYWORDS, ids=lambda value: getattr(value, "__qualname__", ""))
def test_settings_are_keyword_only_and_keep_their_defaults(
    function: Callable[..., Any], expected: dict[str, Any]
) -> None:
    keywords = {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert {name: keywords[name] for name in expected} == expected


def test_result_has_the_documented_fields_and_no_others() -> None:
    result = BatchResult(0, None, success=True)
    assert [name for name in dir(result) if not name.startswith("_")] == sorted(
        [*result.as_dict(), "as_dict", "replace"]
    )
    assert list(result.as_dict()) == [
        "index", "input_data", "success", "output", "error", "execution_time", "status", "error_type", "exception",
        "attempts", "queue_time", "metadata", "trace_id", "span_id", "cached",
    ]  # fmt: skip


# -- nodes -----------------------------------------------------------------------------------------------------------


def test_node_class_runs_over_a_batch(run: Run) -> None:
    results = run(BatchProcessor(Fetch()).batch([{"x": 1}, {"x": 2}]))
    assert [result.output for result in results] == [{"v": 1}, {"v": 2}]


def test_batch_is_named_after_its_node_by_default() -> None:
    assert BatchProcessor(Fetch()).name == "fetch"
    assert BatchProcessor(Fetch(), name="nightly").name == "nightly"
    assert BatchProcessor(double).name == "double"


def test_input_data_is_the_third_field_and_a_fresh_dict_by_default() -> None:
    assert NodeContext("google", "search", {"q": 1}).input_data == {"q": 1}
    first, second = NodeContext("a", "t"), NodeContext("b", "t")
    assert first.input_data == {}
    assert first.input_data is not second.input_data


def test_get_input_returns_the_default_without_the_key_or_a_mapping() -> None:
    assert NodeContext("n", "t", {"a": 0}).get_input("a", 7) == 0
    assert NodeContext("n", "t", {"a": 0}).get_input("b") is None
    assert NodeContext("n", "t", "text").get_input("a", 7) == 7


def test_workflow_context_has_its_own_id_and_variables() -> None:
    first, second = WorkflowContext(), WorkflowContext()
    first.set_global_variable("tenant", "acme")
    assert first.get_global_variable("tenant") == "acme"
    assert second.get_global_variable("tenant", "none") == "none"
    assert first.global_variables == {"tenant": "acme"}
    assert first.workflow_id != second.workflow_id


def test_node_result_starts_with_its_own_metadata() -> None:
    first, second = NodeResult(True), NodeResult(True)
    first.metadata["tokens"] = 5
    assert (first.output, first.error, second.metadata) == (None, None, {})


def sync_node(x: int) -> int:
    return 2 * x


class AsyncCallable:
    async def __call__(self, x: int) -> int:
        return 2 * x


@pytest.mark.parametrize(
    "node",
    [
        double,
        sync_node,
        lambda x: 2 * x,
        functools.partial(pow, exp=1),
        AsyncCallable(),
        AsyncCallable().__call__,
        FunctionNode(double),
        FunctionNode(sync_node),
    ],
    ids=["async", "sync", "lambda", "partial", "object", "method", "FunctionNode async", "FunctionNode sync"],
)
def test_function_is_accepted_wherever_a_node_is(node: Any, run: Run) -> None:
    factor = 1 if isinstance(node, functools.partial) else 2
    assert [r.output for r in run(BatchProcessor(node).batch([1, 2]))] == [factor, 2 * factor]
    assert run(race([node], 3)).output == 3 * factor
    assert run(RaceNode("either", [node]).execute(NodeContext("either", "race", 3), WorkflowContext())).success


def test_function_may_return_a_value_nothing_or_a_node_result(run: Run) -> None:
    async def node(kind: str) -> Any:
        return {"dict": {"a": 1}, "none": None, "result": NodeResult(False, error="no luck")}[kind]

    results = run(BatchProcessor(node).batch(["dict", "none", "result"]))
    assert [(r.success, r.output) for r in results] == [(True, {"a": 1}), (True, None), (False, None)]
    assert results[2].error == "no luck"


def test_sync_function_runs_in_a_thread_and_leaves_the_loop_free(run: Run) -> None:
    arrived = threading.Barrier(3)  # the two items and the loop: each waits until all are there

    def blocking(_: int) -> int:
        arrived.wait(30)
        return threading.get_ident()

    async def main() -> None:
        batch = asyncio.create_task(BatchProcessor(blocking, 2).batch([1, 2]))
        while arrived.n_waiting < 2:
            await asyncio.sleep(0.001)
        arrived.wait(30)
        assert threading.get_ident() not in {r.output for r in await batch}

    run(main())


def test_exception_fails_the_item_and_is_kept(run: Run) -> None:
    error = KeyError("x")

    async def node(_: int) -> None:
        raise error

    (result,) = run(BatchProcessor(node).batch([1]))
    assert (result.success, result.status, result.error_type, result.output) == (False, "failed", "KeyError", None)
    assert result.exception is error
    assert result.error


# -- map, filter, reduce ---------------------------------------------------------------------------------------------


def test_map_passes_each_child_its_item_and_counts(run: Run) -> None:
    seen: list[Any] = []

    async def child(data: dict[str, int]) -> int:
        seen.append(data)
        return data["item"] + 1

    result = run(MapNode("m", child).execute(given(items=[1, 2, 3]), WorkflowContext()))
    assert sorted(seen, key=str) == [{"item": 1}, {"item": 2}, {"item": 3}]
    assert result.output == {"results": [2, 3, 4], "total": 3, "succeeded": 3, "failed": 0}
    assert (result.success, result.error) == (True, None)


def test_map_with_failures_keeps_successes_aligned(run: Run) -> None:
    async def child(data: dict[str, int]) -> float:
        return 6 / data["item"]

    result = run(MapNode("m", child, output_key="out").execute(given(items=[1, 0, 3, 0]), WorkflowContext()))
    assert result.success is False
    assert result.output == {"out": [6, None, 2, None], "total": 4, "succeeded": 2, "failed": 2}
    assert result.metadata["errors"] == [
        {"index": 1, "error": "division by zero"},
        {"index": 3, "error": "division by zero"},
    ]


def test_map_keeps_falsy_outputs(run: Run) -> None:
    async def child(data: dict[str, Any]) -> Any:
        return data["item"]

    result = run(MapNode("m", child).execute(given(items=[0, "", [], {}, None]), WorkflowContext()))
    assert result.success
    assert result.output["results"] == [0, "", [], {}, None]
    assert result.output["succeeded"] == 5


def test_filter_keeps_matching_items_and_counts(run: Run) -> None:
    result = run(FilterNode("f", lambda x: x > 2).execute(given(items=[3, 1, 4, 1, 5]), WorkflowContext()))
    assert result.output == {"filtered": [3, 4, 5], "original_count": 5, "filtered_count": 3}


def test_reduce_folds_from_the_left_in_index_order(run: Run) -> None:
    node = ReduceNode("r", lambda sofar, item: f"({sofar}+{item})", "0")
    result = run(node.execute(given(items=["a", "b", "c"]), WorkflowContext()))
    assert result.output == {"result": "(((0+a)+b)+c)", "processed_count": 3}


def test_reduce_never_mutates_its_initial_value(run: Run) -> None:
    def collect(sofar: list[int], item: int) -> list[int]:
        sofar.append(item)
        return sofar

    start: list[int] = []
    node = ReduceNode("r", collect, start)
    outputs = [run(node.execute(given(items=[1, 2]), WorkflowContext())).output["result"] for _ in range(2)]
    assert outputs == [[1, 2], [1, 2]]
    assert start == []


def test_async_filter_and_reduce_functions_are_awaited(run: Run) -> None:
    async def odd(x: int) -> bool:
        await asyncio.sleep(0)
        return x % 2 == 1

    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    kept = run(FilterNode("f", odd).execute(given(items=range(6)), WorkflowContext())).output["filtered"]
    assert kept == [1, 3, 5]
    assert run(ReduceNode("r", add, 0).execute(given(items=kept), WorkflowContext())).output["result"] == 9


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (functools.partial(MapNode, "m", double), "total"),
        (functools.partial(MapNode, "m", double), "succeeded"),
        (functools.partial(MapNode, "m", double), "failed"),
        (functools.partial(FilterNode, "f", bool), "original_count"),
        (functools.partial(FilterNode, "f", bool), "filtered_count"),
        (functools.partial(ReduceNode, "r", max, 0), "processed_count"),
    ],
)
def test_output_key_that_names_a_count_is_refused_at_construction(make: Callable[..., Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make(output_key=key)


COLLECTION_NODES = [MapNode("m", double), FilterNode("f", bool), ReduceNode("r", max, 0)]


@pytest.mark.parametrize("node", COLLECTION_NODES, ids=["map", "filter", "reduce"])
def test_missing_input_key_is_a_failed_result_that_names_it(node: BaseNode, run: Run) -> None:
    result = run(node.execute(given(rows=[1]), WorkflowContext()))
    assert result.success is False
    assert "'items'" in result.error


@pytest.mark.parametrize("node", COLLECTION_NODES, ids=["map", "filter", "reduce"])
@pytest.mark.parametrize("items", ["text", b"bytes", {"a": 1}])
def test_text_bytes_and_mappings_are_no_collections_of_items(node: BaseNode, items: Any, run: Run) -> None:
    result = run(node.execute(given(items=items), WorkflowContext()))
    assert result.success is False
    assert type(items).__name__ in result.error


def test_filter_then_map_then_reduce_is_a_pipeline(run: Run) -> None:
    async def price(data: dict[str, dict[str, int]]) -> int:
        await asyncio.sleep(0)
        return data["item"]["price"]

    async def main() -> Any:
        workflow = WorkflowContext()
        orders = [{"paid": i % 2 == 0, "price": i} for i in range(10)]
        paid = await FilterNode("paid", lambda order: order["paid"], "orders", "paid").execute(
            NodeContext("paid", "filter", {"orders": orders}), workflow
        )
        prices = await MapNode("prices", price, "paid", "prices", max_concurrency=3).execute(
            NodeContext("prices", "map", paid.output), workflow
        )
        return await ReduceNode("total", lambda a, b: a + b, 0, "prices", "total").execute(
            NodeContext("total", "reduce", prices.output), workflow
        )

    assert run(main()).output == {"total": 0 + 2 + 4 + 6 + 8, "processed_count": 5}


def test_collection_node_runs_in_a_batch(run: Run) -> None:
    async def length(data: dict[str, str]) -> int:
        return len(data["item"])

    words = [{"items": ["a", "bb"]}, {"items": []}, {"lines": ["a"]}]
    results = run(BatchProcessor(MapNode("lengths", length), 2).batch(words))
    assert [r.success for r in results] == [True, True, False]
    assert results[0].output["results"] == [1, 2]
    assert "'items'" in results[2].error


# -- racing ------------------------------------------------------------------------------------------------------------


def test_race_of_three_searches_returns_the_first_answer(run_virtual: Run) -> None:
    searches = [Search("google", 3), Search("bing", 1), Search("ddg", 2)]
    result = run_virtual(race(searches, {"query": "flow"}))
    assert result == NodeResult(True, {"engine": "bing", "query": "flow"})
    assert [search.cleaned_up for search in searches] == [True, False, True]


def test_race_accepts_a_node_context_as_input(run_virtual: Run) -> None:
    result = run_virtual(race([Search("google", 1)], NodeContext("google", "search", {}), WorkflowContext()))
    assert result.output == {"engine": "google", "query": None}


def test_race_returns_the_first_success_not_the_first_end(run_virtual: Run) -> None:
    result = run_virtual(race([Search("google", 1, error="quota"), Search("bing", 2)], {}))
    assert result.output["engine"] == "bing"


def test_race_of_failures_returns_one_result_naming_each_error(run_virtual: Run) -> None:
    result = run_virtual(race([Search("google", 2, error="quota"), Search("bing", 1, error="offline")], {}))
    assert result.success is False
    assert "google: quota" in result.error
    assert "bing: offline" in result.error


def test_race_node_runs_in_a_batch(run_virtual: Run) -> None:
    either = RaceNode("either", [Search("google", 3), Search("bing", 1)])
    results = run_virtual(BatchProcessor(either, 5).batch([{"query": i} for i in range(5)]))
    assert [r.output for r in results] == [{"engine": "bing", "query": i} for i in range(5)]


@dataclasses.dataclass
class Lookup(BaseNode):
    """A node that is a dataclass: equal to its like, and so not hashable."""

    error: str

    def __post_init__(self) -> None:
        super().__init__("lookup")

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        return NodeResult(False, error=self.error)


def test_dataclass_nodes_can_race(run_virtual: Run) -> None:
    result = run_virtual(race([Lookup("one"), Lookup("two"), Lookup("two")], {}))
    assert [entry["error"] for entry in result.metadata["errors"]] == ["one", "two", "two"]


# -- batches -----------------------------------------------------------------------------------------------------------


def test_results_are_a_list_in_input_order(run_virtual: Run) -> None:
    async def node(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    results = run_virtual(BatchProcessor(node, 4).batch([3, 1, 4, 1, 5]))
    assert isinstance(results, list)
    assert isinstance(results, BatchResults)
    assert [r.index for r in results] == [0, 1, 2, 3, 4]
    assert [r.output for r in results] == [r.input_data for r in results] == [3, 1, 4, 1, 5]


def test_success_rate_is_the_share_of_successes(run: Run) -> None:
    results = run(BatchProcessor(Flaky({2, 5, 7})).batch(range(10)))
    assert results.success_rate == 0.7
    assert [r.index for r in results.failed] == [2, 5, 7]
    assert [r.output for r in results.succeeded] == [0, 10, 30, 40, 60, 80, 90]
    assert len(results.succeeded) + len(results.failed) == len(results)


def test_empty_batch_succeeds(run: Run) -> None:
    results = run(BatchProcessor(double).batch([]))
    assert (list(results), results.succeeded, results.failed, results.success_rate) == ([], [], [], 1.0)
    assert results.report.total == 0


def test_report_has_totals_and_failures_by_type(run: Run) -> None:
    report = run(BatchProcessor(Flaky({1, 3}), name="calls").batch(range(5))).report
    assert (report.name, report.total, report.succeeded, report.failed) == ("calls", 5, 3, 2)
    assert report.errors == {"ConnectionError": 2}
    assert report.wall_time > 0


@pytest.mark.parametrize("output", [{}, 0, [], "", (), None, False])
def test_falsy_output_is_a_success(output: Any, run: Run) -> None:
    async def node(x: int) -> Any:
        return output if x == 1 else "something"

    results = run(BatchProcessor(node).batch(range(3)))
    assert results.success_rate == 1.0
    assert results[1].output == output
    assert type(results[1].output) is type(output)
    assert results[1].status == "ok"


def test_failure_leaves_its_siblings_alone(run: Run) -> None:
    results = run(BatchProcessor(Flaky({0}), 2).batch(range(5)))
    assert [r.status for r in results] == ["failed", "ok", "ok", "ok", "ok"]
    assert results[0].error == "no answer for 0"


def test_times_are_those_of_each_item(run_virtual: Run) -> None:
    results = run_virtual(BatchProcessor(asyncio.sleep, 2).batch([1, 2, 3]))
    assert [r.execution_time for r in results] == pytest.approx([1, 2, 3])
    assert [r.queue_time for r in results] == pytest.approx([0, 0, 0])  # an item is pulled when there is a slot for it
    assert [r.attempts for r in results] == [1, 1, 1]


def test_without_tracing_there_are_no_trace_ids(run: Run) -> None:
    (result,) = run(BatchProcessor(double).batch([1]))
    assert (result.trace_id, result.span_id) == (None, None)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "5", 2.5, None])
def test_concurrency_that_is_no_positive_integer_is_a_value_error(value: Any) -> None:
    calls = Flaky(set())
    with pytest.raises(ValueError, match="max_concurrency") as raised:
        BatchProcessor(calls, value)
    assert repr(value) in str(raised.value)
    assert calls.calls == []


def test_attempt_over_its_limit_times_out_and_siblings_go_on(run_virtual: Run) -> None:
    results = run_virtual(BatchProcessor(asyncio.sleep, 3, item_timeout=2).batch([1, 60, 1, 1]))
    assert [r.status for r in results] == ["ok", "timed_out", "ok", "ok"]
    assert results[1].success is False
    assert results[1].error_type == "TimeoutError"
    assert "2 s" in results[1].error


def test_batch_over_its_limit_returns_finished_and_cancels_the_rest(run_virtual: Run) -> None:
    async def main() -> None:
        results = await BatchProcessor(asyncio.sleep, 2, batch_timeout=2.5).batch([1] * 8)
        assert asyncio.get_running_loop().time() == pytest.approx(2.5)
        assert [r.status for r in results] == ["ok"] * 4 + ["cancelled"] * 4
        assert all(r.error for r in results.failed)

    run_virtual(main())


@pytest.mark.parametrize("way", ["wait_for", "timeout"])
def test_timeout_around_a_batch_leaves_the_processor_usable(way: str, run_virtual: Run) -> None:
    processor = BatchProcessor(asyncio.sleep, 2)

    async def limited() -> None:
        if way == "wait_for":
            await asyncio.wait_for(processor.batch([1] * 100), timeout=2.5)
        else:
            async with asyncio.timeout(2.5):
                await processor.batch([1] * 100)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await limited()
        assert asyncio.get_running_loop().time() == pytest.approx(2.5)
        assert (await processor.batch([1, 1])).success_rate == 1.0

    run_virtual(main())


def test_fail_fast_raises_the_exception_of_the_node(run: Run) -> None:
    error = LookupError("item 1")

    async def node(x: int) -> None:
        await asyncio.sleep(0)
        if x == 1:
            raise error

    with pytest.raises(LookupError) as raised:
        run(BatchProcessor(node, 2, continue_on_error=False).batch(range(1_000)))
    assert raised.value is error


def test_fail_fast_on_a_failed_result_raises_an_error_holding_it(run: Run) -> None:
    async def node(x: int) -> NodeResult:
        return NodeResult(x != 1, output={"partial": x}, error="quota", metadata={"left": 0})

    with pytest.raises(ItemFailedError, match="quota") as raised:
        run(BatchProcessor(node, 2, continue_on_error=False).batch(range(1_000)))
    result = raised.value.result
    assert (result.index, result.status, result.error) == (1, "failed", "quota")
    assert (result.output, result.metadata) == ({"partial": 1}, {"left": 0})
    assert isinstance(raised.value, flowrt.FlowrtError)


def test_fail_fast_starts_nothing_after_the_first_failure(run_virtual: Run) -> None:
    calls = Flaky({0})
    with pytest.raises(ConnectionError):
        run_virtual(BatchProcessor(calls, 3).batch(range(1_000), continue_on_error=False))
    assert len(calls.calls) <= 3


@pytest.mark.parametrize("own", [True, False])
def test_call_overrides_continue_on_error_both_ways(own: bool, run: Run) -> None:
    async def collect() -> list[BatchResult]:
        stream = processor.batch_as_completed(range(3), continue_on_error=not own)
        return [result async for result in stream]

    processor = BatchProcessor(Flaky({1}), 1, own)
    if own:
        with pytest.raises(ConnectionError):
            run(processor.batch(range(3), continue_on_error=False))
        with pytest.raises(ConnectionError):
            run(collect())
        assert len(run(processor.batch(range(3)))) == 3
    else:
        assert len(run(processor.batch(range(3), continue_on_error=True)).failed) == 1
        assert len(run(collect())) == 3
        with pytest.raises(ConnectionError):
            run(processor.batch(range(3)))


def test_workflow_context_is_shared_by_all_items(run: Run) -> None:
    class Count(BaseNode):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            seen = workflow_context.get_global_variable("seen", 0)
            workflow_context.set_global_variable("seen", seen + 1)
            return NodeResult(True, workflow_context.workflow_id)

    workflow = WorkflowContext()
    results = run(BatchProcessor(Count("count")).batch(range(5), workflow))
    assert workflow.get_global_variable("seen") == 5
    assert {r.output for r in results} == {workflow.workflow_id}


# -- retrying failed items ---------------------------------------------------------------------------------------------


def test_retry_failed_reruns_failures_at_their_old_indices(run: Run) -> None:
    flaky = Flaky({1, 3}, until=2)
    processor = BatchProcessor(flaky, 2)

    async def main() -> None:
        first = await processor.batch(range(5))
        assert first.success_rate == 0.6
        merged = await processor.retry_failed(first)
        assert sorted(flaky.calls) == [0, 1, 1, 2, 3, 3, 4]
        assert [(r.index, r.output) for r in merged] == [(i, i * 10) for i in range(5)]
        assert isinstance(merged, BatchResults)
        assert merged.success_rate == 1.0
        assert first.success_rate == 0.6, "what was given stays as it was"

    run(main())


def test_retry_failed_can_loop_until_all_succeed(run: Run) -> None:
    processor = BatchProcessor(Flaky({0, 2}, until=4))

    async def main() -> int:
        results, rounds = await processor.batch(range(3)), 0
        while results.failed:
            results, rounds = await processor.retry_failed(results), rounds + 1
        assert [r.output for r in results] == [0, 10, 20]
        return rounds

    assert run(main()) == 3


def test_retry_failed_keeps_repeated_failures_as_failed(run: Run) -> None:
    processor = BatchProcessor(Flaky({1}))

    async def main() -> None:
        again = await processor.retry_failed(await processor.batch(range(3)))
        assert [(r.index, r.status) for r in again] == [(0, "ok"), (1, "failed"), (2, "ok")]
        assert isinstance(again[1].exception, ConnectionError)

    run(main())


def test_retry_failed_runs_nothing_after_full_success(run: Run) -> None:
    calls = Flaky(set())
    processor = BatchProcessor(calls)

    async def main() -> None:
        first = await processor.batch(range(3))
        calls.calls.clear()
        assert list(await processor.retry_failed(first)) == list(first)
        assert calls.calls == []

    run(main())


def test_retry_failed_reruns_timed_out_and_cancelled_items(run_virtual: Run) -> None:
    async def main() -> None:
        first = await BatchProcessor(asyncio.sleep, 1, item_timeout=2, batch_timeout=4.5).batch([1, 3, 1, 1])
        assert [r.status for r in first] == ["ok", "timed_out", "ok", "cancelled"]
        again = await BatchProcessor(asyncio.sleep).retry_failed(first)
        assert [r.status for r in again] == ["ok"] * 4
        assert again[1].execution_time == pytest.approx(3)

    run_virtual(main())


def test_retry_failed_returns_streamed_results_in_input_order(run: Run) -> None:
    processor = BatchProcessor(Flaky({0, 4}, until=2), 3)

    async def main() -> None:
        streamed = [result async for result in processor.batch_as_completed(range(6))]
        streamed.reverse()
        assert [r.output for r in await processor.retry_failed(streamed)] == [0, 10, 20, 30, 40, 50]

    run(main())


def test_retry_failed_may_stop_at_the_first_failure(run: Run) -> None:
    processor = BatchProcessor(Flaky({1}))

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await processor.retry_failed(await processor.batch(range(3)), continue_on_error=False)

    run(main())


# -- streams -----------------------------------------------------------------------------------------------------------


def test_stream_yields_each_of_a_hundred_items_once(run: Run) -> None:
    async def main() -> list[BatchResult]:
        return [result async for result in BatchProcessor(double, 10).batch_as_completed(range(100))]

    results = run(main())
    assert sorted(r.index for r in results) == list(range(100))
    assert all(r.success and r.output == 2 * r.input_data for r in results)


def test_stream_yields_results_as_they_finish(run_virtual: Run) -> None:
    async def main() -> list[int]:
        return [r.index async for r in BatchProcessor(asyncio.sleep, 3).batch_as_completed([3, 1, 2])]

    assert run_virtual(main()) == [1, 2, 0]


def test_stream_yields_failed_items_too(run: Run) -> None:
    async def main() -> dict[int, str]:
        return {r.index: r.status async for r in BatchProcessor(Flaky({1})).batch_as_completed(range(3))}

    assert run(main()) == {0: "ok", 1: "failed", 2: "ok"}


def test_leaving_a_stream_early_cancels_active_items(run_virtual: Run) -> None:
    ended: list[int] = []

    async def node(x: int) -> None:
        try:
            await asyncio.sleep(1 if x == 0 else 3600)
        finally:
            ended.append(x)

    async def main() -> None:
        async for result in BatchProcessor(node, 4).batch_as_completed(range(100)):
            assert result.index == 0
            break
        await asyncio.sleep(1)
        assert sorted(ended) == list(range(len(ended)))
        assert 4 <= len(ended) <= 5

    run_virtual(main())


def test_stream_in_async_with_has_ended_after_the_block(run_virtual: Run) -> None:
    ended: list[int] = []

    async def node(x: int) -> None:
        try:
            await asyncio.sleep(1 if x == 0 else 3600)
        finally:
            await asyncio.sleep(0.5)
            ended.append(x)

    async def main() -> None:
        async with BatchProcessor(node, 4).batch_as_completed(range(4)) as stream:
            await anext(stream)
        assert sorted(ended) == [0, 1, 2, 3]

    run_virtual(main())


def test_slow_consumer_holds_the_batch_back(run_virtual: Run) -> None:
    finished = taken = 0

    async def node(_: int) -> None:
        nonlocal finished
        await asyncio.sleep(0.01)
        finished += 1

    async def main() -> None:
        nonlocal taken
        async for _ in BatchProcessor(node, 3).batch_as_completed(range(30)):
            taken += 1
            await asyncio.sleep(10)
            assert finished - taken <= 3

    run_virtual(main())
    assert taken == 30


# -- inputs ------------------------------------------------------------------------------------------------------------


async def rows() -> AsyncIterator[int]:
    for i in range(5):
        await asyncio.sleep(0)
        yield i


@pytest.mark.parametrize(
    "make",
    [lambda: [0, 1, 2, 3, 4], lambda: range(5), lambda: (i for i in range(5)), lambda: map(int, "01234"), rows],
    ids=["list", "range", "generator", "map", "async generator"],
)
def test_any_iterable_or_async_iterable_is_an_input(make: Callable[[], Any], run: Run) -> None:
    async def streamed() -> list[int]:
        return [r.output async for r in BatchProcessor(double, 2).batch_as_completed(make())]

    assert [r.output for r in run(BatchProcessor(double, 2).batch(make()))] == [0, 2, 4, 6, 8]
    assert sorted(run(streamed())) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("inputs", ["text", b"bytes", {"a": 1}, 5, None])
def test_input_that_is_no_collection_is_a_type_error_at_the_call(inputs: Any, run: Run) -> None:
    with pytest.raises(TypeError, match="iterable of items"):
        run(BatchProcessor(double).batch(inputs))
    with pytest.raises(TypeError, match="iterable of items"):
        BatchProcessor(double).batch_as_completed(inputs)


def test_endless_input_is_pulled_only_on_demand(run: Run) -> None:
    pulled = 0

    def endless() -> Iterator[int]:
        nonlocal pulled
        while True:
            yield pulled
            pulled += 1

    async def main() -> None:
        async with BatchProcessor(double, 5).batch_as_completed(endless()) as stream:
            for _ in range(100):
                await anext(stream)
        assert pulled <= 100 + 5

    run(main())


def test_input_that_raises_propagates_after_admitted_items_finish(run: Run) -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise OSError("the file is gone")

    seen: list[int] = []

    async def main() -> None:
        async for result in BatchProcessor(double, 2).batch_as_completed(broken()):
            seen.append(result.index)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(OSError, match="the file is gone"):
        run(main())
    assert sorted(seen) == [0, 1, 2]


# -- running -----------------------------------------------------------------------------------------------------------


def test_run_serves_metrics_while_the_batch_runs() -> None:
    async def main() -> str:
        await BatchProcessor(double, name="served").batch(range(3))
        runtime = Runtime.current()
        assert runtime is not None
        assert runtime.metrics_url is not None
        return await asyncio.to_thread(page_at, runtime.metrics_url)

    page = run(main(), metrics_port=0, log_level="ERROR")
    assert 'flowrt_items_total{batch="served",node="double",status="ok"} 3.0' in page


def test_runtime_accepts_its_documented_settings_on_any_loop(run: Run) -> None:
    async def node(_: int) -> tuple[str, str]:
        await asyncio.sleep(0)
        current = trace.get_current_span().get_span_context()
        return f"{current.trace_id:032x}", f"{current.span_id:016x}"

    async def main() -> None:
        endpoint = "http://127.0.0.1:9"  # no collector listens: telemetry may fail, the work may not
        async with Runtime(
            service_name="svc", metrics_port=0, otlp_endpoint=endpoint, log_level="CRITICAL", flush_timeout=0.2
        ) as runtime:
            assert runtime.metrics_url is not None
            results = await BatchProcessor(node, 3).batch(range(5))
            assert results.success_rate == 1.0
            assert [r.output for r in results] == [(r.trace_id, r.span_id) for r in results]
            assert len({r.span_id for r in results}) == 5

    run(main())


def test_batch_without_set_up_works_and_prints_nothing(tmp_path: Path) -> None:
    code = """
import asyncio, flowrt
async def node(x):
    await asyncio.sleep(0)
    return 1 / x
results = asyncio.run(flowrt.BatchProcessor(node).batch(range(5)))
assert [r.status for r in results] == ["failed", "ok", "ok", "ok", "ok"]
from prometheus_client import generate_latest
assert b'flowrt_items_total{batch="node",node="node",status="ok"} 4.0' in generate_latest()
"""
    done = python("-W", "error", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("call", ["batch", "batch_as_completed", "retry_failed"])
def test_progress_without_rich_names_the_extra_before_any_work(
    call: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    calls = Flaky(set())
    processor = BatchProcessor(calls)

    async def main() -> None:
        if call == "batch":
            await processor.batch(range(3), progress=True)
        elif call == "batch_as_completed":
            await anext(processor.batch_as_completed(range(3), progress=True))
        else:
            await processor.retry_failed([BatchResult(0, 0, success=False, status="failed", error="x")], progress=True)

    with pytest.raises(flowrt.MissingExtraError, match=r"pip install 'flowrt\[cli\]'") as raised:
        run(main())
    assert isinstance(raised.value, ImportError)
    assert calls.calls == []


# -- the command -------------------------------------------------------------------------------------------------------


def test_python_m_flowrt_prints_the_version(tmp_path: Path) -> None:
    script = tmp_path / "flowrt"  # what an installer makes of the entry point
    script.write_text("from flowrt.cli.main import main\nmain(prog_name='flowrt')\n")
    for start in (["-m", "flowrt"], [str(script)]):
        done = python(*start, "--version", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"flowrt {flowrt.__version__}\n", "")


def test_help_of_the_command_and_of_run_shows_examples(tmp_path: Path) -> None:
    for words in (["--help"], ["run", "--help"]):
        done = python("-m", "flowrt", *words, cwd=tmp_path)
        assert done.returncode == 0
        assert "Examples:" in done.stdout
        assert "flowrt run enrich:node airports.jsonl" in done.stdout


def test_node_of_a_user_module_runs_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text("async def double(item):\n    return 2 * item\n")
    (tmp_path / "in.jsonl").write_text("1\n2\n")
    done = python("-m", "flowrt", "run", "jobs:double", "in.jsonl", "-o", "-", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(line.split('"output":')[1].split(",")[0].strip() for line in done.stdout.splitlines()) == ["2", "4"]
