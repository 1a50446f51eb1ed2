"""Items that a thread reads ahead, as an async iterator."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from flowrt import BatchProcessor
from flowrt.cli.io.prefetch import CountedFeed, Feed, make_feed

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "flowrt-reader"]


def test_items_come_in_order_and_the_thread_ends(run: Run) -> None:
    async def main() -> None:
        feed = Feed(iter([[0, 1], [2], [3, 4]]))
        assert [item async for item in feed] == [0, 1, 2, 3, 4]
        assert feed.exhausted
        await feed.close()

    run(main())
    assert all(not thread.is_alive() or thread.join(5) is None for thread in reader_threads())
    assert not reader_threads()


def test_the_thread_reads_a_few_chunks_ahead_and_no_more(run: Run) -> None:
    made = 0

    def chunks() -> Iterator[list[Any]]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield [made]

    async def main() -> None:
        feed = Feed(chunks())
        assert await anext(feed) == 1
        for _ in range(50):
            time.sleep(0.001)
            await asyncio.sleep(0)
        assert made <= 8
        assert not feed.exhausted
        await feed.close()
        assert feed.ended

    run(main())


def test_what_the_reading_raises_is_raised_after_the_items_before_it(run: Run) -> None:
    def chunks() -> Iterator[list[Any]]:
        yield [1]
        raise OSError("the disk is gone")

    async def main() -> None:
        feed = Feed(chunks())
        assert await anext(feed) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            await anext(feed)
        assert not feed.exhausted
        await feed.close()

    run(main())


def test_a_batch_that_ended_early_leaves_the_rest_to_be_read(run: Run) -> None:
    async def main() -> None:
        feed = Feed(iter([[1, 2, 3], [4, 5]]))
        async with BatchProcessor(lambda item: item, 1, telemetry=False).batch_as_completed(feed) as results:
            assert (await anext(results)).output == 1
        rest = [item async for item in feed]
        assert rest[-1] == 5
        assert feed.exhausted
        await feed.close()

    run(main())


def test_a_feed_has_a_length_only_where_it_is_known() -> None:
    assert not hasattr(make_feed(iter([]), lambda: None, None), "__len__")
    counted = make_feed(iter([]), lambda: None, 0)
    assert isinstance(counted, CountedFeed)
    assert len(counted) == 0
