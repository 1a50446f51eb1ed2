"""BatchProcessor: validation, results, retries of failed items, inputs and progress."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle  # results cross process boundaries
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import flowrt
from flowrt import (
    BaseNode,
    BatchProcessor,
    BatchResult,
    FunctionNode,
    ItemFailedError,
    NodeContext,
    NodeResult,
    Rejected,
    Telemetry,
    WorkflowContext,
)

Run = Callable[[Any], Any]


async def echo(x: Any) -> Any:
    await asyncio.sleep(0)
    return x


async def odd_fails(x: int) -> int:
    await asyncio.sleep(0)
    if x % 2:
        raise ValueError(f"odd {x}")
    return x


@pytest.mark.parametrize("value", [0, -1, math.nan, "5", 2.5, True, None, [3]])
def test_concurrency_out_of_range_is_refused_by_value_before_any_work(value: Any) -> None:
    with pytest.raises(ValueError, match="max_concurrency must be an integer of at least 1, not") as raised:
        BatchProcessor(echo, value)
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize("name", ["item_timeout", "batch_timeout"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "5", True])
def test_wrong_duration_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive number of seconds"):
        BatchProcessor(echo, **{name: value})


def test_wrong_node_or_setting_is_refused_with_the_fix() -> None:
    class Node(BaseNode):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            return NodeResult(True)

    class WithoutSuper(Node):
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"Node is a class: pass an instance, Node\(\)"):
        BatchProcessor(Node)
    with pytest.raises(TypeError, match=r"call super\(\).__init__\(node_id=...\)"):
        BatchProcessor(WithoutSuper())
    with pytest.raises(TypeError, match="not 5"):
        BatchProcessor(5)
    with pytest.raises(ValueError, match="node_id must be a non-empty string"):
        Node("")
    with pytest.raises(TypeError, match="telemetry must be True, False or"):
        BatchProcessor(echo, telemetry="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="trace_shape must be"):
        Telemetry(trace_shape="flat")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is not an instrument"):
        BatchProcessor(echo, instruments=[object()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="name must be a non-empty string"):
        BatchProcessor(echo, name="")


@pytest.mark.parametrize("output", [{}, 0, [], "", None, False, 0.0])
def test_falsy_outputs_are_outputs(output: Any, run: Run) -> None:
    class Node(BaseNode):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            return NodeResult(True, output)

    for node in (Node("n"), lambda _: output, FunctionNode(lambda _: NodeResult(True, output))):
        results = run(BatchProcessor(node).batch([1, 2]))
        assert [(r.success, r.output, r.status) for r in results] == [(True, output, "ok")] * 2


def test_results_describe_their_items_and_the_batch(run: Run) -> None:
    results = run(BatchProcessor(odd_fails, 3).batch(range(4)))
    assert [r.index for r in results] == [0, 1, 2, 3]
    assert [r.success for r in results] == [True, False, True, False]
    assert results.success_rate == 0.5
    assert [r.index for r in results.succeeded] == [0, 2]
    assert [r.index for r in results.failed] == [1, 3]
    failed = results[1]
    assert (failed.error, failed.error_type, failed.status, failed.attempts) == ("odd 1", "ValueError", "failed", 1)
    assert isinstance(failed.exception, ValueError)
    assert "odd_fails" in failed.exception.__traceback__.tb_frame.f_code.co_name, (
        "the traceback starts in the user's own code"
    )
    ok = results[0]
    assert (ok.error, ok.error_type, ok.exception, ok.metadata, ok.trace_id, ok.queue_time) == (
        None, None, None, {}, None, 0.0,
    )  # fmt: skip
    assert ok.execution_time > 0
    report = results.report
    assert (report.total, report.succeeded, report.failed, report.errors) == (4, 2, 2, {"ValueError": 2})
    assert report.wall_time > 0
    assert "2 ok, 2 failed" in repr(report)


def test_results_copy_compare_pickle_and_convert(run: Run) -> None:
    (result,) = run(BatchProcessor(echo).batch([{"x": 1}]))
    assert pickle.loads(pickle.dumps(result)) == result == copy.deepcopy(result)
    assert type(copy.copy(result)) is type(result.replace()) is BatchResult
    assert result.as_dict()["output"] == {"x": 1}
    assert result.replace(index=7).index == 7
    assert result.replace(status="failed").success is False
    assert result.replace(success=False, error="no").status == "failed"
    assert result != 5
    assert repr(result) == repr(result.replace())
    assert "success=True" in repr(result)
    with pytest.raises(ValueError, match="status='failed' contradicts success=True"):
        BatchResult(0, None, True, status="failed")
    with pytest.raises(AttributeError, match="no attribute 'outptu'"):
        result.outptu  # noqa: B018
    error = ItemFailedError(BatchResult(3, None, False, error="no", status="failed"))
    assert pickle.loads(pickle.dumps(error)).result.index == 3


@pytest.mark.parametrize("returned", [{"a": 1}, None, "text", object])
def test_node_class_that_returns_no_node_result_fails_its_item(returned: Any, run: Run) -> None:
    class Node(BaseNode):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            return returned  # type: ignore[no-any-return]

    (result,) = run(BatchProcessor(Node("mine")).batch([1]))
    assert not result.success
    assert f"node 'mine' returned {type(returned).__name__}, not a NodeResult" in result.error
    assert result.error_type == "TypeError"


@pytest.mark.parametrize(
    ("error", "text", "error_type"),
    [
        ("no luck", "no luck", "ItemFailedError"),
        (None, "the node reported a failure without an error message", "ItemFailedError"),
        ("  ", "the node reported a failure without an error message", "ItemFailedError"),
        (OSError("disk"), "disk", "OSError"),
        (OSError(), "OSError", "OSError"),
    ],
)
def test_failed_node_result_keeps_error_output_and_metadata(error: Any, text: str, error_type: str, run: Run) -> None:
    async def node(_: int) -> NodeResult:
        return NodeResult(False, output="partial", error=error, metadata={"code": 5})

    (result,) = run(BatchProcessor(node).batch([1]))
    assert (result.success, result.error, result.error_type) == (False, text, error_type)
    assert (result.output, result.metadata) == ("partial", {"code": 5})
    assert result.exception is (error if isinstance(error, Exception) else None)


def test_error_is_never_empty_even_if_str_of_the_exception_raises(run: Run) -> None:
    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class UnpicklableError(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("cannot be pickled")

    async def node(kind: type[Exception]) -> None:
        raise kind

    results = run(BatchProcessor(node).batch([SilentError, UnpicklableError, ValueError, KeyError]))
    assert all(result.error for result in results)
    assert "SilentError" in results[0].error
    assert [r.error_type for r in results] == ["SilentError", "UnpicklableError", "ValueError", "KeyError"]


def test_retry_failed_reruns_failed_items_at_their_old_indices(run: Run) -> None:
    calls: list[int] = []
    broken = True

    async def node(x: int) -> int:
        calls.append(x)
        if broken and x in (2, 5):
            raise ValueError("broken")
        return x * 10

    async def main() -> None:
        nonlocal broken
        processor = BatchProcessor(node, 3)
        first = await processor.batch(range(7))
        broken = False
        calls.clear()
        merged = await processor.retry_failed(first)
        assert sorted(calls) == [2, 5]
        assert [r.index for r in merged] == list(range(7))
        assert [r.output for r in merged] == [0, 10, 20, 30, 40, 50, 60]
        assert merged[0] is first[0]
        assert [r.index for r in first.failed] == [2, 5], "the argument is not changed"
        streamed = [r async for r in processor.batch_as_completed(range(3))]
        assert [r.index for r in await processor.retry_failed(streamed)] == [0, 1, 2]

    run(main())


async def agenerate(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@pytest.mark.parametrize("make", [range, lambda n: iter(range(n)), lambda n: set(range(n)), agenerate])
def test_any_iterable_is_an_input_also_an_empty_one(make: Callable[[int], Any], run: Run) -> None:
    assert sorted(r.output for r in run(BatchProcessor(echo, 3).batch(make(7)))) == list(range(7))
    empty = run(BatchProcessor(echo, 3).batch(make(0)))
    assert empty == []
    assert empty.success_rate == 1
    assert repr(empty.report).startswith("<BatchReport 'echo': no items")


def test_old_style_sequence_is_an_input(run: Run) -> None:
    class Sequence:
        def __getitem__(self, index: int) -> int:
            if index >= 3:
                raise IndexError
            return index

    assert [r.output for r in run(BatchProcessor(echo).batch(Sequence()))] == [0, 1, 2]  # type: ignore[arg-type]


def test_workflow_context_is_shared_and_nodes_see_index_and_attempt(run: Run) -> None:
    seen: list[tuple[int | None, int, str]] = []

    class Node(BaseNode):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            seen.append((node_context.index, node_context.attempt, node_context.node_id))
            workflow_context.set_global_variable(f"item{node_context.index}", node_context.get_input("x"))
            return NodeResult(True, node_context.get_input("y", "default"))

    workflow = WorkflowContext(workflow_id="w")
    results = run(BatchProcessor(Node("n"), 1).batch([{"x": "a"}, {"x": "b", "y": None}], workflow))
    assert results.outputs == ["default", None]
    assert seen == [(0, 1, "n"), (1, 1, "n")]
    assert workflow.global_variables == {"item0": "a", "item1": "b"}
    assert workflow.get_global_variable("none", 5) == 5


def test_rejected_input_is_a_failed_item_without_an_attempt(run: Run) -> None:
    inputs = ["a", Rejected("line 2 is not JSON", "JSONDecodeError", "{bad"), "c"]
    results = run(BatchProcessor(echo, 2).batch(inputs))
    assert [r.status for r in results] == ["ok", "failed", "ok"]
    rejected = results[1]
    assert (rejected.error, rejected.error_type, rejected.input_data, rejected.attempts) == (
        "line 2 is not JSON", "JSONDecodeError", "{bad", 0,
    )  # fmt: skip


def test_progress_writes_nothing_without_a_terminal(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(run(BatchProcessor(echo).batch(range(3), progress=True))) == 3
    assert capfd.readouterr() == ("", "")


def test_progress_without_rich_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    with pytest.raises(ImportError, match=r"pip install 'flowrt\[cli\]'"):
        run(BatchProcessor(echo).batch(range(3), progress=True))


def test_repr_of_a_processor_shows_node_and_settings() -> None:
    assert (
        repr(BatchProcessor(echo, 7, name="x")) == "BatchProcessor(<FunctionNode 'echo'>, max_concurrency=7, name='x')"
    )


def test_settings_can_be_read_and_set_with_validation() -> None:
    processor = BatchProcessor(len, 3, item_timeout=2.0)
    assert (processor.max_concurrency, processor.item_timeout, processor.retry) == (3, 2.0, None)
    processor.max_concurrency = 7
    processor.item_timeout = None
    processor.retry = 3  # type: ignore[assignment]  # a shorthand
    assert (processor.config.limit, processor.config.item_timeout) == (7, None)
    assert processor.retry == flowrt.RetryPolicy(3)
    with pytest.raises(ValueError, match="item_timeout must be a positive number of seconds"):
        processor.item_timeout = -1
    with pytest.raises(ValueError, match="max_concurrency must be an integer of at least 1"):
        processor.max_concurrency = 0
    assert processor.max_concurrency == 7


@pytest.mark.parametrize("name", ["node", "name", "telemetry", "instruments"])
def test_settings_fixed_at_construction_cannot_be_changed(name: str) -> None:
    with pytest.raises(AttributeError, match=f"{name} of a BatchProcessor cannot be changed: make a new one"):
        setattr(BatchProcessor(len), name, None)
