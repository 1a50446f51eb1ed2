"""Shortcuts `flowrt.map` and `flowrt.node`: a batch in one line."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import flowrt
from flowrt import BatchProcessor, BatchResults, WorkflowContext
from flowrt.batch.settings import BatchSettings, KeywordSettings
from flowrt.batch.shortcuts import ConfiguredNode

Run = Callable[[Any], Any]


class Peak:
    """Async function that records how many of its calls run at once."""

    def __init__(self) -> None:
        self.running = self.most = 0

    async def __call__(self, x: int) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(1)
        self.running -= 1
        return 2 * x


def test_settings_are_those_of_the_processor() -> None:
    parameters = inspect.signature(BatchProcessor).parameters
    positional = ["node", "max_concurrency", "continue_on_error"]
    assert list(parameters) == [*positional, *KeywordSettings.__annotations__]
    assert {"node", *BatchSettings.__annotations__} == set(parameters)


def test_map_returns_results_in_input_order(run_virtual: Run) -> None:
    peak = Peak()
    results = run_virtual(flowrt.map(peak, range(10), max_concurrency=5))
    assert isinstance(results, BatchResults)
    assert results.outputs == [2 * x for x in range(10)]
    assert (peak.most, results.wall_time) == (5, 2.0)


def test_map_passes_its_settings_on(run_virtual: Run) -> None:
    results = run_virtual(flowrt.map(Peak(), [1], item_timeout=0.5, name="short"))
    assert (results.name, results[0].status) == ("short", "timed_out")


def test_map_shares_the_workflow_context(run_virtual: Run) -> None:
    class Remember(flowrt.BaseNode):
        async def execute(self, node_context: Any, workflow_context: WorkflowContext) -> flowrt.NodeResult:
            workflow_context.set_global_variable(node_context.input_data, True)
            return flowrt.NodeResult(True)

    workflow = WorkflowContext()
    run_virtual(flowrt.map(Remember("remember"), ["a", "b"], workflow_context=workflow))
    assert workflow.global_variables == {"a": True, "b": True}


def test_map_with_an_unknown_setting_is_a_type_error(run_virtual: Run) -> None:
    with pytest.raises(TypeError, match="retires"):
        run_virtual(flowrt.map(len, [], retires=3))  # type: ignore[call-arg]


def test_star_import_leaves_the_builtin_map_alone() -> None:
    assert "map" not in flowrt.__all__
    assert callable(flowrt.map)


def test_decorated_function_maps_with_its_settings(run_virtual: Run) -> None:
    peak = Peak()
    fetch = flowrt.node(max_concurrency=2, node_id="fetch")(peak)
    assert run_virtual(fetch.map([1, 2, 3])).outputs == [2, 4, 6]
    assert peak.most == 2
    assert run_virtual(flowrt.map(fetch, [1, 2, 3])).name == "fetch"
    assert peak.most == 2


def test_call_overrides_settings_of_the_decorator(run_virtual: Run) -> None:
    peak = Peak()
    fetch = flowrt.node(max_concurrency=2, name="nightly")(peak)
    results = run_virtual(fetch.map(range(9), max_concurrency=3))
    assert (peak.most, results.name) == (3, "nightly")
    run_virtual(flowrt.map(fetch, range(9), max_concurrency=4))
    assert peak.most == 4


def configured() -> Any:
    return flowrt.node(max_concurrency=2, continue_on_error=False, item_timeout=0.5, retry=3, name="nightly")(Peak())


def test_processor_uses_the_settings_of_a_decorated_function() -> None:
    processor = BatchProcessor(configured())
    assert (processor.max_concurrency, processor.continue_on_error) == (2, False)
    assert (processor.item_timeout, processor.retry, processor.name) == (0.5, flowrt.RetryPolicy(3), "nightly")
    assert BatchProcessor(node=configured()).max_concurrency == 2


def test_arguments_of_a_processor_override_settings_of_the_decorator() -> None:
    """Also where they are what the processor has by default."""
    processor = BatchProcessor(configured(), 10, True, item_timeout=None, name="daily")
    assert (processor.max_concurrency, processor.continue_on_error) == (10, True)
    assert (processor.item_timeout, processor.retry, processor.name) == (None, flowrt.RetryPolicy(3), "daily")
    assert BatchProcessor(configured(), continue_on_error=True, retry=None).retry is None


def test_processor_refuses_too_many_arguments() -> None:
    for node in (Peak(), configured()):
        with pytest.raises(TypeError, match="takes from 2 to 4 positional arguments"):
            BatchProcessor(node, 10, True, 5)  # type: ignore[call-overload]


def test_decorated_function_is_still_a_function(run_virtual: Run) -> None:
    @flowrt.node
    async def double(x: int) -> int:
        """Double a number."""
        return 2 * x

    assert isinstance(double, ConfiguredNode)
    assert (double.__name__, double.__doc__, double.node_id) == ("double", "Double a number.", "double")
    assert run_virtual(double(21)) == 42


def test_decorated_sync_function_runs_in_a_thread(run: Run) -> None:
    @flowrt.node(max_concurrency=2)
    def double(x: int) -> int:
        return 2 * x

    assert double(21) == 42
    assert run(double.map([1, 2])).outputs == [2, 4]


def test_decorated_function_is_a_node_anywhere(run_virtual: Run) -> None:
    @flowrt.node(max_concurrency=2)
    async def double(x: int) -> int:
        return 2 * x

    assert run_virtual(BatchProcessor(double, 7).batch([1])).outputs == [2]
    assert run_virtual(flowrt.race([double], 3)).output == 6


def test_wrong_setting_fails_at_the_decorator() -> None:
    with pytest.raises(ValueError, match="max_concurrency must be"):
        flowrt.node(max_concurrency=0)(len)
