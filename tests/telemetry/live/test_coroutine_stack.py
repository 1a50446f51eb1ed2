"""Stack of a suspended coroutine, read from another thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from flowrt.telemetry.live.coroutine_stack import places_of
from tests.conftest import Run


async def innermost(future: asyncio.Future[None]) -> None:
    await future


async def middle(future: asyncio.Future[None]) -> None:
    await innermost(future)


async def through_a_task(future: asyncio.Future[None]) -> None:
    await asyncio.create_task(middle(future))


async def through_a_gather(future: asyncio.Future[None]) -> None:
    await asyncio.gather(asyncio.sleep(0), middle(future))


class Awaited:
    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def __await__(self) -> Any:
        yield from middle(self._future).__await__()


async def through_an_awaitable(future: asyncio.Future[None]) -> None:
    await Awaited(future)


async def numbers(future: asyncio.Future[None]) -> AsyncIterator[int]:
    yield 1
    await future


async def through_a_generator(future: asyncio.Future[None]) -> None:
    async for _ in numbers(future):
        pass


def seen_from_a_thread(run: Run, node: Callable[[asyncio.Future[None]], Awaitable[None]]) -> list[tuple[str, int]]:
    async def main() -> list[tuple[str, int]]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(node(future))
        for _ in range(5):
            await asyncio.sleep(0)
        places = await asyncio.to_thread(places_of, task)  # type: ignore[arg-type]
        future.set_result(None)
        await task
        assert all(place.file == __file__ or "asyncio" in place.file for place in places)
        return [(place.function, place.line) for place in places]

    found: list[tuple[str, int]] = run(main())
    return found


def test_chain_of_awaits_is_outermost_first(run: Run) -> None:
    first = innermost.__code__.co_firstlineno
    assert seen_from_a_thread(run, middle) == [("middle", first + 5), ("innermost", first + 1)]


@pytest.mark.parametrize("node", [through_a_task, through_a_gather])
def test_awaited_tasks_are_followed(run: Run, node: Callable[[asyncio.Future[None]], Awaitable[None]]) -> None:
    functions = [function for function, _ in seen_from_a_thread(run, node)]
    assert functions[0] == node.__name__
    assert functions[-2:] == ["middle", "innermost"]


def test_custom_awaitable_is_followed_to_its_await_method(run: Run) -> None:
    functions = [function for function, _ in seen_from_a_thread(run, through_an_awaitable)]
    assert functions == ["through_an_awaitable", "Awaited.__await__"]


def test_async_generator_is_named_by_its_consumers_line(run: Run) -> None:
    assert seen_from_a_thread(run, through_a_generator)[0][0] == "through_a_generator"


def test_finished_task_has_no_places(run: Run) -> None:
    async def main() -> int:
        task = asyncio.ensure_future(asyncio.sleep(0))
        await task
        return len(places_of(task))

    assert run(main()) == 0


def test_cycle_of_tasks_is_visited_once(run: Run) -> None:
    async def main() -> int:
        async def wait_for(other: list[asyncio.Task[None]]) -> None:
            await asyncio.wait([other[0]])
            await other[0]

        both: list[asyncio.Task[None]] = []
        both.append(asyncio.create_task(wait_for(both)))
        await asyncio.sleep(0)
        count = len(places_of(both[0]))
        both[0].cancel()
        await asyncio.gather(*both, return_exceptions=True)
        return count

    assert 0 < run(main()) < 20
