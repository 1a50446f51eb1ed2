"""Tasks that start at once: the engine's own from Python 3.12.5 on, and those of `asyncio.eager_task_factory`."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from flowrt import BatchProcessor, Hedge, RetryPolicy
from flowrt.testing import run_virtual

pytestmark = pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks need Python 3.12")


def run_eagerly(main: Callable[[], Any]) -> Any:
    async def eager() -> Any:
        asyncio.get_running_loop().set_task_factory(vars(asyncio)["eager_task_factory"])
        return await main()

    return run_virtual(eager())


@pytest.mark.parametrize("settings", [{}, {"retry": RetryPolicy(2)}, {"item_timeout": 60.0}], ids=" ".join)
def test_all_slots_are_busy_from_the_start(settings: dict[str, Any]) -> None:
    processor = BatchProcessor(asyncio.sleep, 10, telemetry=False, **settings)
    results = run_eagerly(lambda: processor.batch([1.0] * 40))
    assert results.success_rate == 1
    assert results.wall_time == pytest.approx(4)


def test_context_variable_does_not_reach_the_next_of_many_items() -> None:
    var = contextvars.ContextVar("var", default=-1)

    async def node(x: int) -> int:
        before = var.get()
        var.set(x)
        return before

    results = run_eagerly(lambda: BatchProcessor(node, 3, telemetry=False).batch(range(5000)))
    assert {result.output for result in results} == {-1}


def test_context_variable_does_not_reach_the_next_item_after_a_turn() -> None:
    """An item that is not started at once, as the loop's turn is over, has a fresh context, too."""
    var = contextvars.ContextVar("var", default=-1)

    async def node(x: int) -> int:
        before = var.get()
        var.set(x)
        time.sleep(0.002)
        return before

    results = asyncio.run(BatchProcessor(node, 1, telemetry=False).batch(range(40)))
    assert {result.output for result in results} == {-1}


def test_hedge_that_returns_in_its_first_step_wins() -> None:
    tries = 0

    async def node(x: int) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            await asyncio.sleep(60)
        return tries

    processor = BatchProcessor(node, 1, hedge=Hedge(after=2.0, share=1.0), telemetry=False)
    results = run_eagerly(lambda: processor.batch([0]))
    assert (results[0].output, results.wall_time) == (2, pytest.approx(2))


@pytest.mark.skipif(sys.version_info < (3, 12, 5), reason="items start eagerly from Python 3.12.5 on")
def test_items_that_never_wait_follow_each_other_in_one_turn_of_the_loop() -> None:
    turns = 0
    tasks: list[asyncio.Task[Any] | None] = []

    async def node(x: int) -> int:
        tasks.append(asyncio.current_task())
        return turns

    async def main() -> Any:
        nonlocal turns
        work = asyncio.ensure_future(BatchProcessor(node, 1, name="quick", telemetry=False).batch(range(50)))
        while not work.done():
            await asyncio.sleep(0)
            turns += 1
        return await work

    assert len(set(run_virtual(main()).outputs)) <= 2
    assert len(set(tasks)) == 50
    assert {task.get_name() for task in tasks if task is not None} == {"quick"}


@pytest.mark.parametrize(
    ("limit", "items", "blocks_s", "turns"), [(2, 40, 0.002, 6), (1, 12, 0.01, 12), (3, 12, 0.01, 4)]
)
def test_items_that_never_wait_let_the_loop_turn(limit: int, items: int, blocks_s: float, turns: int) -> None:
    """Short ones after 5 ms, and those that take longer each."""
    ticks = 0

    async def node(x: int) -> int:
        time.sleep(blocks_s)
        return ticks

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def main() -> Any:
        ticker = asyncio.create_task(tick())
        results = await BatchProcessor(node, limit, telemetry=False).batch(range(items))
        ticker.cancel()
        return results

    assert len(set(asyncio.run(main()).outputs)) >= turns


@pytest.mark.parametrize("waits", [False, True])
def test_item_that_cancels_its_own_task_ends_only_itself(waits: bool) -> None:
    async def node(x: int) -> int:
        task = asyncio.current_task()
        if x % 3 == 1 and task is not None:
            task.cancel()
            if waits:
                await asyncio.sleep(0)
        return x

    results = run_virtual(BatchProcessor(node, 1, telemetry=False).batch(range(9)))
    assert [result.status for result in results] == ["ok", "cancelled" if waits else "ok", "ok"] * 3


def test_cancel_of_an_eagerly_started_item_leaves_its_starter_alone() -> None:
    tasks: list[Any] = []

    async def node(x: int) -> int:
        tasks.append(asyncio.current_task())
        if x == 2:
            tasks[1].cancel()  # the item has ended, and its task runs this one
        await asyncio.sleep(0 if x else 1)
        return x

    results = run_virtual(BatchProcessor(node, 1, telemetry=False).batch(range(4)))
    assert [result.status for result in results] == ["ok"] * 4
