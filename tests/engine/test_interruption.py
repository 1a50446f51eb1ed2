"""Interruption: callers of drained batches wait for the items of all batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from flowrt.engine.interruption import Interruption
from flowrt.errors import Interrupted

Run = Callable[[Any], Any]


def stream_with_an_item() -> Any:
    return SimpleNamespace(batch=SimpleNamespace(slots=["an item"]), admission=SimpleNamespace(limited=True))


def test_thousand_waiting_callers_look_at_the_batches_as_often_as_one(run_virtual: Run) -> None:
    async def main(callers: int) -> int:
        looks = 0
        loop = asyncio.get_running_loop()
        running = stream_with_an_item()

        def active() -> list[Any]:
            nonlocal looks
            looks += 1
            return [running]

        interruption = Interruption(15)
        loop.call_later(1.0, running.batch.slots.clear)
        waits = [interruption.deliver(active, results) for results in range(callers)]
        raised = await asyncio.gather(*waits, return_exceptions=True)
        assert 1.0 <= loop.time() < 1.1
        assert [type(exc) for exc in raised] == [Interrupted] * callers
        assert [exc.results for exc in raised if isinstance(exc, Interrupted)] == list(range(callers))
        return looks

    assert run_virtual(main(1_000)) == run_virtual(main(1))


def test_cancelled_caller_is_interrupted_at_once(run_virtual: Run) -> None:
    async def main() -> None:
        running = stream_with_an_item()
        interruption = Interruption(15)
        first, second = (asyncio.ensure_future(interruption.deliver(lambda: [running], number)) for number in (1, 2))
        await asyncio.sleep(0.5)
        first.cancel()
        await asyncio.wait([first, second], timeout=0.1)
        assert isinstance(first.exception(), Interrupted)
        assert not second.done()
        running.batch.slots.clear()
        await asyncio.wait([second], timeout=0.1)
        assert isinstance(second.exception(), Interrupted)

    run_virtual(main())
