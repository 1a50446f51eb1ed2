"""Scripted nodes, and virtual time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from flowrt import BatchProcessor, NodeResult, RetryPolicy
from flowrt.model.node import NodeContext, WorkflowContext
from flowrt.testing import (
    ODD_EXCEPTIONS,
    ScriptedNode,
    assert_conserved,
    blocks,
    cancels_itself,
    fails,
    hangs,
    raises,
    returns,
    run_virtual,
    sleeps,
)
from flowrt.testing.nodes import Call


def test_node_without_steps_returns_its_input() -> None:
    assert run_virtual(BatchProcessor(ScriptedNode()).batch(["a", 0])).outputs == ["a", 0]


def test_attempts_take_the_steps_in_order_and_repeat_the_last() -> None:
    node = ScriptedNode(
        raises(ConnectionError), raises(ConnectionError("down")), returns(5), items={1: [raises(OSError)]}
    )
    results = run_virtual(BatchProcessor(node, retry=RetryPolicy(4)).batch(["a", "b"]))
    assert [(r.output, r.attempts, r.error_type) for r in results] == [(5, 3, None), (None, 4, "OSError")]
    assert Counter(node.calls) == Counter(
        [Call(0, n, "a") for n in (1, 2, 3)] + [Call(1, n, "b") for n in (1, 2, 3, 4)]
    )


def test_node_fails_so_many_times_and_then_answers() -> None:
    node = ScriptedNode(*fails(2), items={1: fails(1, OSError("down"), then=returns("up"))})
    results = run_virtual(BatchProcessor(node, retry=RetryPolicy(3)).batch(["a", "b"]))
    assert [(result.output, result.attempts) for result in results] == [("a", 3), ("up", 2)]


def test_step_may_return_a_failed_node_result() -> None:
    (result,) = run_virtual(BatchProcessor(ScriptedNode(returns(NodeResult(False, error="no")))).batch([1]))
    assert (result.status, result.error) == ("failed", "no")


def test_node_counts_what_runs_at_once() -> None:
    node = ScriptedNode(sleeps(10, then=returns("rested")))
    results = run_virtual(BatchProcessor(node, 3).batch(range(7)))
    assert (node.peak, node.running, results.wall_time) == (3, 0, 30.0)
    assert set(results.outputs) == {"rested"}


def test_hanging_step_ends_by_cancellation() -> None:
    (result,) = run_virtual(BatchProcessor(ScriptedNode(hangs()), item_timeout=5).batch([1]))
    assert (result.status, result.execution_time) == ("timed_out", 5.0)


def test_stubborn_step_ignores_cancellation_for_its_time() -> None:
    async def main() -> float:
        node = ScriptedNode(hangs(stubborn_for=3))
        (result,) = await BatchProcessor(node, item_timeout=1).batch([1])
        assert result.status == "timed_out"
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 4.0


def test_blocking_step_stops_the_loop_in_real_time() -> None:
    async def main() -> float:
        began = time.monotonic()
        await BatchProcessor(ScriptedNode(blocks(0.05))).batch([1])
        assert asyncio.get_running_loop().time() < 0.05
        return time.monotonic() - began

    assert run_virtual(main()) >= 0.05


def test_step_that_cancels_itself_is_cancelled() -> None:
    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(ScriptedNode(cancels_itself()).execute(NodeContext("n", "t"), WorkflowContext()))

    run_virtual(main())


@pytest.mark.parametrize("kind", ODD_EXCEPTIONS)
def test_odd_exception_is_one_failed_item(kind: str) -> None:
    results = run_virtual(
        BatchProcessor(ScriptedNode(raises(ODD_EXCEPTIONS[kind]()), items={1: [returns(1)]})).batch([0, 1])
    )
    assert [result.success for result in results] == [False, True]
    assert_conserved(results, 2)


def test_virtual_time_finds_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="standstill"):
        run_virtual(main(), patience_s=0.05)


def test_function_in_place_of_its_coroutine_is_refused_with_the_fix() -> None:
    async def main() -> None: ...

    with pytest.raises(TypeError, match=r"runs a coroutine: main\(\), not <function"):
        run_virtual(main)  # type: ignore[arg-type]


@pytest.mark.timeout(30)  # a clock that followed the batch's own timers would never stand still
def test_virtual_time_finds_a_deadlock_in_a_batch_and_where_it_waits() -> None:
    async def waits_for_an_event(_: int) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await BatchProcessor(waits_for_an_event).batch([1, 2])

    with pytest.raises(RuntimeError, match="standstill") as caught:
        run_virtual(main(), patience_s=0.05)
    places = str(caught.value).splitlines()[1:]
    assert [line.split()[0] for line in places] == ["2", "1"]
    assert places[0].endswith("waits_for_an_event")
    assert places[1].endswith("main")
    assert all(f"{Path(__file__).name}:" in line for line in places)


@pytest.mark.timeout(30)
def test_deadlock_in_code_of_flowrt_names_the_tasks() -> None:
    with pytest.raises(RuntimeError, match="standstill") as caught:
        run_virtual(BatchProcessor(ScriptedNode(hangs()), 9).batch(range(9)), patience_s=0.05)
    assert "9 at task 'scripted'" in str(caught.value)


def test_virtual_time_stands_still_while_a_batch_waits_for_a_thread() -> None:
    async def main() -> float:
        results = await BatchProcessor(lambda _: time.sleep(0.1)).batch([1])
        assert results[0].success
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0.0


def test_virtual_time_waits_for_a_thread_where_no_timer_is_set() -> None:
    def answer() -> str:
        time.sleep(0.2)
        return "from a thread"

    assert run_virtual(asyncio.to_thread(answer)) == "from a thread"


def test_calls_have_the_time_of_their_start() -> None:
    node = ScriptedNode(sleeps(10))
    run_virtual(BatchProcessor(node, 2).batch(range(5)))
    assert [call.at_s for call in node.calls] == [0.0, 0.0, 10.0, 10.0, 20.0]


def test_virtual_time_finds_a_task_left_running() -> None:
    async def main() -> None:
        main.task = asyncio.create_task(asyncio.sleep(9))  # type: ignore[attr-defined]

    with pytest.raises(AssertionError, match="tasks left running"):
        run_virtual(main())
