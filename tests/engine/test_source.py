"""Sources: inputs are pulled lazily, and a source runs in one context and one task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from flowrt import BatchProcessor
from flowrt.engine.source import END, LATER, Source, check_inputs, make_source

Run = Callable[[Any], Any]

variable: ContextVar[str] = ContextVar("variable", default="outside")


async def double(x: int) -> int:
    await asyncio.sleep(0.01)
    return 2 * x


async def pull(source: Source) -> Any:
    while (data := source.pull()) is LATER:
        await source.wait()
    return data


@pytest.mark.parametrize("inputs", ["text", b"bytes", bytearray(b"x"), {"a": 1}, None, 5, object()])
def test_inputs_that_are_not_a_collection_of_items_are_refused(inputs: Any) -> None:
    with pytest.raises(TypeError, match="inputs must be an iterable"):
        check_inputs(inputs)


def test_source_returns_each_input_and_then_end_on_every_pull() -> None:
    source = make_source([1, None, 0])
    assert source.expected == 3
    assert [source.pull() for _ in range(5)] == [1, None, 0, END, END]


def test_async_source_serves_its_waiters_in_order(run_virtual: Run) -> None:
    async def slow() -> AsyncIterator[int]:
        for i in range(5):
            await asyncio.sleep(1)
            yield i

    async def main() -> None:
        source = make_source(slow())
        source.start(copy_context(), None)
        assert source.expected is None
        pulled = await asyncio.gather(*(pull(source) for _ in range(7)))
        assert pulled == [0, 1, 2, 3, 4, END, END]

    run_virtual(main())


def test_async_source_reads_nothing_ahead(run_virtual: Run) -> None:
    yielded: list[int] = []

    async def inputs() -> AsyncIterator[int]:
        for i in range(100):
            yielded.append(i)
            yield i

    async def main() -> None:
        source = make_source(inputs())
        source.start(copy_context(), None)
        assert await pull(source) == 0
        await asyncio.sleep(1)
        assert yielded == [0]
        await source.aclose()

    run_virtual(main())


class Broken:
    """Iterable whose `len()` raises, as that of a lazy query or a wrapped generator does."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __len__(self) -> int:
        raise self.error

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


@pytest.mark.parametrize("error", [TypeError("no len()"), OverflowError(), RuntimeError("no connection")])
def test_iterable_whose_length_raises_has_no_expected_count(error: Exception, run_virtual: Run) -> None:
    source = make_source(Broken(error))
    assert source.expected is None
    results = run_virtual(BatchProcessor(double).batch(Broken(error)))
    assert [result.output for result in results] == [0, 2, 4]


def test_range_beyond_machine_integers_has_no_expected_count() -> None:
    assert make_source(range(10**30)).expected is None


def sync_inputs(seen: list[str]) -> Iterator[int]:
    token = variable.set("inside")
    for i in range(30):
        seen.append(variable.get())
        yield i
    variable.reset(token)


async def async_inputs(seen: list[str]) -> AsyncIterator[int]:
    token = variable.set("inside")
    for i in range(30):
        seen.append(variable.get())
        await asyncio.sleep(0.001)
        yield i
    variable.reset(token)


@pytest.mark.parametrize("retry", [None, 2])
@pytest.mark.parametrize("inputs", [sync_inputs, async_inputs])
def test_source_generator_keeps_its_context_variable(inputs: Any, retry: int | None, run_virtual: Run) -> None:
    seen: list[str] = []
    reached: list[str] = []

    async def node(x: int) -> int:
        reached.append(variable.get())
        await asyncio.sleep(0.01)
        return x

    results = run_virtual(BatchProcessor(node, 4, retry=retry).batch(inputs(seen)))
    assert [result.output for result in results] == list(range(30))
    assert set(seen) == {"inside"}
    assert set(reached) == {"inside"}, "the item sees what the source had set at its yield"
    assert variable.get() == "outside"


async def numbered() -> AsyncIterator[int]:
    for i in range(20):
        variable.set(f"input {i}")
        yield i


def test_variable_set_at_a_yield_reaches_that_item_alone(run_virtual: Run) -> None:
    async def node(x: int) -> str:
        return variable.get()

    results = run_virtual(BatchProcessor(node, 6).batch(numbered()))
    assert [result.output for result in results] == [f"input {i}" for i in range(20)]


def test_timeout_held_open_by_a_source_ends_the_source_alone(run_virtual: Run) -> None:
    async def inputs() -> AsyncIterator[int]:
        async with asyncio.timeout(1):
            for i in range(100):
                yield i

    async def slow(x: int) -> int:
        await asyncio.sleep(0.4)
        return x

    found: list[Any] = []

    async def main() -> None:
        async for result in BatchProcessor(slow, 1).batch_as_completed(inputs()):
            found.append((result.output, result.status))  # noqa: PERF401  # kept when the stream raises

    with pytest.raises(TimeoutError):
        run_virtual(main())
    assert found == [(0, "ok"), (1, "ok"), (2, "ok")]


def test_task_group_held_open_by_a_source_is_left_in_its_task(run_virtual: Run) -> None:
    ended: list[str] = []

    async def beside() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("beside")

    async def inputs() -> AsyncIterator[int]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(beside())
            for i in range(10):
                yield i
            task.cancel()

    async def main() -> None:
        results = await BatchProcessor(double, 3).batch(inputs())
        assert [result.output for result in results] == [2 * i for i in range(10)]
        async with BatchProcessor(double, 3).batch_as_completed(inputs()) as stream:
            async for _ in stream:
                break
        assert ended == ["beside", "beside"]

    run_virtual(main())


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_list_that_grows_while_it_is_run_is_run_whole(shared: bool, concurrency: int, run_virtual: Run) -> None:
    found: list[int] = [1]

    async def crawl(x: int) -> int:
        await asyncio.sleep(0.01)
        if x < 16:
            found.extend([2 * x, 2 * x + 1])
        return x

    results = run_virtual(BatchProcessor(crawl, concurrency, task_per_item=not shared).batch(found))
    assert sorted(result.output for result in results) == list(range(1, 32))


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("item_s", [0.0, 0.01])
def test_source_is_closed_however_often_its_batch_is_cancelled(turns: int, item_s: float, run_virtual: Run) -> None:
    closed: list[bool] = []

    async def inputs() -> AsyncIterator[int]:
        try:
            for i in range(1000):
                yield i
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async def node(x: int) -> int:
        await asyncio.sleep(item_s)
        return x

    async def main() -> None:
        work = asyncio.ensure_future(BatchProcessor(node, 2, telemetry=False).batch(inputs()))
        await asyncio.sleep(0.05) if item_s else None
        for _ in range(turns + 2):
            await asyncio.sleep(0)
        for _ in range(turns):
            work.cancel()
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait([work])
        assert closed == [True]

    run_virtual(main())
