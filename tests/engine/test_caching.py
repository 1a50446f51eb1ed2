"""Cached items: equal inputs run once, and a hit has no attempt."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import flowrt
from flowrt import BatchProcessor, Cache, RateLimit, RetryPolicy
from flowrt.testing import assert_conserved, capture_telemetry

Run = Callable[[Any], Any]


class Node:
    """Function that takes a second and counts its calls by input; inputs in `failing` fail so many times."""

    def __init__(self, failing: dict[Any, int] | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.failing = {repr(x): times for x, times in (failing or {}).items()}
        self.running: Counter[str] = Counter()

    async def __call__(self, x: Any) -> dict[str, Any]:
        key = repr(x)
        self.calls[key] += 1
        self.running[key] += 1
        assert self.running[key] == 1, "equal inputs run at once"
        try:
            await asyncio.sleep(1)
        finally:
            self.running[key] -= 1
        if self.calls[key] <= self.failing.get(key, 0):
            raise ConnectionError(f"call {self.calls[key]} for {x}")
        return {"of": x}


def processor(node: Any, **settings: Any) -> BatchProcessor[Any, Any]:
    return BatchProcessor(node, settings.pop("max_concurrency", 4), cache=settings.pop("cache", True), **settings)


def test_equal_inputs_of_a_batch_run_once(run_virtual: Run) -> None:
    node = Node()
    results = run_virtual(processor(node).batch([1, 2, 1, 1, 2, 3]))
    assert results.outputs == [{"of": x} for x in (1, 2, 1, 1, 2, 3)]
    assert node.calls == {"1": 1, "2": 1, "3": 1}
    assert [(r.cached, r.attempts) for r in results] == [
        (False, 1), (False, 1), (True, 0), (True, 0), (True, 0), (False, 1),
    ]  # fmt: skip
    assert (results.report.cached, results.batch.cached, results.wall_time) == (3, 3, 1.0)


def test_later_batch_takes_outputs_of_an_earlier_one(run_virtual: Run) -> None:
    node, shared = Node(), Cache()
    run_virtual(processor(node, cache=shared).batch([1, 2]))
    results = run_virtual(processor(node, cache=shared).batch([2, 1, 3]))
    assert results.outputs == [{"of": 2}, {"of": 1}, {"of": 3}]
    assert [result.cached for result in results] == [True, True, False]


@pytest.mark.parametrize("max_concurrency", [1, 2, 5])
@pytest.mark.parametrize("task_per_item", [True, False])
def test_waiting_items_hold_no_slot_while_theirs_is_retried(
    run_virtual: Run, max_concurrency: int, task_per_item: bool
) -> None:
    node = Node(failing={1: 2})
    batch = processor(node, max_concurrency=max_concurrency, retry=RetryPolicy(3, base=10), task_per_item=task_per_item)
    results = run_virtual(batch.batch([1, 1, 1, 2, 3]))
    assert [result.status for result in results] == ["ok"] * 5
    assert node.calls == {"1": 3, "2": 1, "3": 1}
    assert [result.cached for result in results] == [False, True, True, False, False]


def test_next_of_the_waiting_items_runs_after_a_failure(run_virtual: Run) -> None:
    node = Node(failing={1: 2})
    results = run_virtual(processor(node).batch([1, 1, 1, 1]))
    assert [(result.status, result.cached) for result in results] == [
        ("failed", False), ("failed", False), ("ok", False), ("ok", True),
    ]  # fmt: skip
    assert results[2].execution_time == 1.0  # its wait for the others is no service time
    assert node.calls == {"1": 3}


@pytest.mark.parametrize("value", [(1, 2), {1: "a"}, {"a": {2}}, float("nan"), object()])
def test_inputs_without_an_exact_json_form_are_not_cached(
    run_virtual: Run, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Any] = []

    async def call(x: Any) -> int:
        calls.append(x)
        return 1

    with caplog.at_level(logging.WARNING, "flowrt.cache"):
        results = run_virtual(processor(call).batch([value, value]))
    assert [result.cached for result in results] == [False, False]
    assert len(calls) == 2
    assert [record.message.split(" where")[0] for record in caplog.records] == ["inputs of node 'call' are not cached"]


def test_outputs_without_an_exact_json_form_are_not_cached(run_virtual: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def pair(x: int) -> tuple[int, int]:
        return x, x

    results = run_virtual(processor(pair).batch([1, 1, 1]))
    assert results.outputs == [(1, 1)] * 3
    assert [result.cached for result in results] == [False] * 3
    assert "outputs of node 'pair' are not cached" in caplog.text


def test_inputs_of_different_types_are_different_inputs(run_virtual: Run) -> None:
    inputs = [1, 1.0, True, "1", [1], {"1": 1}, None, "null"]
    node = Node()
    results = run_virtual(processor(node, max_concurrency=1).batch(inputs))
    assert [repr(output["of"]) for output in results.outputs] == [repr(x) for x in inputs]
    assert results.report.cached == 0
    results = run_virtual(processor(Node()).batch([{"a": 1, "b": 2}, {"b": 2, "a": 1}]))
    assert results.report.cached == 1


def test_falsy_outputs_are_cached(run_virtual: Run) -> None:
    async def nothing(x: Any) -> Any:
        await asyncio.sleep(1)
        return x

    results = run_virtual(processor(nothing).batch([None, None, 0, 0, {}, {}]))
    assert results.outputs == [None, None, 0, 0, {}, {}]
    assert results.report.cached == 3


def test_each_hit_has_an_output_of_its_own(run_virtual: Run) -> None:
    results = run_virtual(processor(Node()).batch([1, 1, 1]))
    results[0].output["of"] = results[1].output["of"] = "changed"
    assert results[2].output == {"of": 1}


def test_hits_take_nothing_of_a_rate_limit(run_virtual: Run) -> None:
    node = Node()
    results = run_virtual(processor(node, rate_limit=RateLimit(1, per=100)).batch([1, 1, 1, 1]))
    assert (results.report.cached, results.wall_time) == (3, 1.0)


def test_batch_timeout_cancels_items_that_wait(run_virtual: Run) -> None:
    results = run_virtual(processor(Node(), batch_timeout=0.5).batch([1, 1, 2, 1]))
    assert [result.status for result in results] == ["cancelled"] * 4
    assert "not started" in results[1].error
    assert_conserved(results)


def test_first_failure_stops_items_that_wait(run_virtual: Run) -> None:
    node = Node(failing={1: 1})
    with pytest.raises(ConnectionError):
        run_virtual(processor(node).batch([1, 1, 1], continue_on_error=False))
    assert node.calls == {"1": 1}


def test_stream_gives_each_result_once(run_virtual: Run) -> None:
    async def main() -> list[int]:
        async with processor(Node()).batch_as_completed(x % 3 for x in range(5_000)) as stream:
            return [result.index async for result in stream]

    assert sorted(run_virtual(main())) == list(range(5_000))


def test_stream_that_is_left_early_ends(run_virtual: Run) -> None:
    node = Node()

    async def main() -> None:
        async for _ in processor(node).batch_as_completed(1 for _ in range(5_000)):
            break

    run_virtual(main())  # which asserts that no task is left
    assert node.calls == {"1": 1}


def test_items_that_wait_are_bounded(run_virtual: Run) -> None:
    pulled = 0

    def ones() -> Any:
        nonlocal pulled
        for _ in range(10_000):
            pulled += 1
            yield 1

    async def main() -> int:
        batch = asyncio.ensure_future(processor(Node()).batch(ones()))
        await asyncio.sleep(0.5)
        before = pulled
        assert len(await batch) == 10_000
        return before

    assert run_virtual(main()) == 1_001, "one runs, and a thousand wait"


def test_hits_are_kept_in_the_journal(run_virtual: Run, tmp_path: Path) -> None:
    shared, path = Cache(), tmp_path / "run.journal"
    run_virtual(processor(Node(), cache=shared).batch([1, 2]))
    first = run_virtual(processor(Node(), cache=shared, journal=path).batch([1, 2, 3]))
    assert [result.cached for result in first] == [True, True, False]
    again = run_virtual(processor(Node(), journal=path).batch([1, 2, 3]))
    assert [result.status for result in again] == ["resumed"] * 3
    assert again.outputs == first.outputs


def test_telemetry_counts_hits_and_agrees_with_the_results(run_virtual: Run) -> None:
    with capture_telemetry() as telemetry:
        results = run_virtual(processor(Node(failing={2: 1}), name="cached").batch([1, 1, 2, 2, 2, 3]))
        telemetry.assert_counted(2, "flowrt_cache_lookups_total", result="hit", batch="cached")
        telemetry.assert_counted(4, "flowrt_cache_lookups_total", result="miss", batch="cached")
        telemetry.assert_counted(4, "flowrt_item_attempts_total", batch="cached")
        telemetry.assert_agrees_with(results, batch="cached")
        telemetry.assert_logged("batch.completed", cached=2)
    assert_conserved(results)
    assert [cause for cause in results.report.text().splitlines() if "cached" in cause]


@hypothesis.given(
    inputs=st.lists(st.integers(0, 4), max_size=30),
    failing=st.dictionaries(st.integers(0, 4), st.integers(1, 3)),
    limit=st.integers(1, 4),
    retries=st.integers(1, 3),
)
@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_input_runs_until_it_succeeds_and_gives_each_item_its_output(
    run_virtual: Run, inputs: list[int], failing: dict[int, int], limit: int, retries: int
) -> None:
    node = Node(failing)
    batch = processor(node, max_concurrency=limit, retry=RetryPolicy(retries, budget=None))
    results = run_virtual(batch.batch(inputs))
    assert [result.input_data for result in results] == inputs
    for x, count in Counter(inputs).items():
        fails = failing.get(x, 0)
        outputs = [result.output for result in results if result.input_data == x and result.success]
        assert outputs == [{"of": x}] * (count - min(count, fails // retries))
        assert node.calls[str(x)] == min(fails + 1, count * retries)
    assert {result.error_type for result in results} <= {None, "ConnectionError"}, "equal inputs ran at once"
    assert_conserved(results)


def test_flowrt_map_and_decorated_functions_take_a_cache(run_virtual: Run) -> None:
    node = Node()
    double = flowrt.node(cache=True)(node)
    run_virtual(double.map([1]))
    assert run_virtual(double.map([1])).report.cached == 1
    assert run_virtual(flowrt.map(node, [1, 1], cache=True)).report.cached == 1
