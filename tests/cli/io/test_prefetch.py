"""Prefetch: a thread reads items ahead of the batch."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from flowrt import BatchProcessor
from flowrt.cli.io.prefetch import Prefetcher, SizedPrefetcher, prefetch

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "flowrt-reader"]


def test_prefetch_keeps_the_order_and_ends_its_thread(run: Run) -> None:
    async def main() -> None:
        feed = Prefetcher(iter([[0, 1], [2], [3, 4]]))
        assert [item async for item in feed] == [0, 1, 2, 3, 4]
        assert feed.exhausted
        await feed.close()

    run(main())
    for thread in reader_threads():
        thread.join(60)
    assert not reader_threads()


def test_prefetch_reads_a_bounded_number_of_chunks_ahead(run: Run) -> None:
    made = 0

    def chunks() -> Iterator[list[Any]]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield [made]

    async def main() -> None:
        feed = Prefetcher(chunks())
        assert await anext(feed) == 1
        for _ in range(50):
            time.sleep(0.001)
            await asyncio.sleep(0)
        assert made <= 8
        assert not feed.exhausted
        await feed.close()
        assert feed.ended

    run(main())


def test_read_error_is_raised_after_the_items_before_it(run: Run) -> None:
    def chunks() -> Iterator[list[Any]]:
        yield [1]
        raise OSError("the disk is gone")

    async def main() -> None:
        feed = Prefetcher(chunks())
        assert await anext(feed) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            await anext(feed)
        assert not feed.exhausted
        await feed.close()

    run(main())


def test_rest_can_be_read_after_a_batch_ended_early(run: Run) -> None:
    async def main() -> None:
        feed = Prefetcher(iter([[1, 2, 3], [4, 5]]))
        async with BatchProcessor(lambda item: item, 1, telemetry=False).batch_as_completed(feed) as results:
            assert (await anext(results)).output == 1
        rest = [item async for item in feed]
        assert rest in ([2, 3, 4, 5], [3, 4, 5])  # the batch may have pulled the second item as it was left
        assert feed.exhausted
        await feed.close()

    run(main())


def test_prefetcher_has_a_length_only_if_it_is_known() -> None:
    assert not hasattr(prefetch(iter([]), lambda: None, None), "__len__")
    counted = prefetch(iter([]), lambda: None, 0)
    assert isinstance(counted, SizedPrefetcher)
    assert len(counted) == 0
