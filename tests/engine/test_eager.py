"""Batch on a loop that starts tasks at once, with `asyncio.eager_task_factory`."""

from __future__ import annotations

import asyncio
import contextvars
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
