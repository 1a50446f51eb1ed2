"""RetryQueue: a source of new inputs and of items whose next attempt is due."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextvars import copy_context
from typing import Any

import pytest

from flowrt._util.clock import clock_of
from flowrt.engine.admission import Admission
from flowrt.engine.instrument import Dispatch
from flowrt.engine.pause import Pause
from flowrt.engine.retry_queue import Requeued, RetryQueue
from flowrt.engine.source import END, LATER, make_source
from flowrt.model import BatchRecord, ItemRecord, make_record

Run = Callable[[Any], Any]


class Fixture:
    """Retry queue over some inputs, with the calls that a worker makes.

    Args:
        inputs: What the queue pulls from.
        bound: How many items may be in backoff.
    """

    def __init__(self, inputs: Any, bound: int = 2) -> None:
        loop = asyncio.get_running_loop()
        self.clock = clock_of(loop)
        self.batch = BatchRecord(name="b", node_id="n", node_type="t", batch_id="0" * 32, limit=3, clock=self.clock)
        pause = Pause(self.batch, self.clock, Admission(), Dispatch(()))
        self.queue = RetryQueue(make_source(inputs), self.batch, bound, loop, self.clock, pause)
        self.queue.start(copy_context(), None)

    async def pull(self) -> Any:
        while (data := self.queue.pull()) is LATER:
            await self.queue.wait()
        if data is not END and not isinstance(data, Requeued):
            item = make_record(self.batch, self.batch.pulled, data, self.clock())
            self.batch.pulled += 1
            return item
        return data.item if isinstance(data, Requeued) else data

    def push(self, item: ItemRecord, delay_s: float) -> None:
        self.queue.push(item, self.clock() + round(delay_s * 1e9))

    def finish(self, item: ItemRecord) -> None:
        self.batch.counts["ok"] += 1
        self.queue.item_ended(item)


async def numbers(values: Iterable[int], delay_s: float = 0.0) -> AsyncIterator[int]:
    for value in values:
        await asyncio.sleep(delay_s)
        yield value


def test_requeued_items_are_pulled_in_the_order_in_which_they_are_due(run_virtual: Run) -> None:
    async def main() -> None:
        fixture = Fixture(range(3), bound=5)
        first, second, third = [await fixture.pull() for _ in range(3)]
        fixture.push(first, 3)
        fixture.push(second, 1)
        fixture.push(third, 2)
        assert fixture.batch.queued == 3
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert [await fixture.pull() for _ in range(3)] == [second, third, first]
        assert loop.time() - began == pytest.approx(3, abs=0.01)
        assert fixture.batch.queued == 0

    run_virtual(main())


def test_item_that_is_due_at_once_comes_before_new_inputs(run_virtual: Run) -> None:
    async def main() -> None:
        fixture = Fixture(range(4), bound=1)
        first, second = [await fixture.pull() for _ in range(2)]
        for item in (first, second):
            item.finished_ns = fixture.clock()
            fixture.push(item, 0)
        assert fixture.batch.queued == 2
        assert [await fixture.pull() for _ in range(2)] == [first, second]
        assert (await fixture.pull()).input_data == 2
        assert fixture.batch.queued == 0

    run_virtual(main())


def test_item_that_is_due_at_once_wakes_a_waiting_worker(run_virtual: Run) -> None:
    async def main() -> None:
        fixture = Fixture(range(1))
        item = await fixture.pull()
        waiting = asyncio.ensure_future(fixture.pull())
        await asyncio.sleep(1)
        item.finished_ns = fixture.clock()
        fixture.push(item, 0)
        assert await waiting is item

    run_virtual(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_end_is_returned_once_no_item_can_be_requeued(kind: str, run_virtual: Run) -> None:
    async def main() -> None:
        fixture = Fixture(range(1) if kind == "sync" else numbers(range(1)))
        item = await fixture.pull()
        waiting = asyncio.ensure_future(fixture.pull())
        await asyncio.sleep(1)
        assert not waiting.done(), "the item may still be retried"
        fixture.finish(item)
        assert await waiting is END
        assert fixture.queue.pull() is END

    run_virtual(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_no_new_input_is_pulled_while_backoff_is_full(kind: str, run_virtual: Run) -> None:
    async def main() -> None:
        fixture = Fixture(range(10) if kind == "sync" else numbers(range(10)), bound=1)
        item = await fixture.pull()
        fixture.push(item, 5)
        assert fixture.queue.pull() is LATER
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await fixture.pull() is item
        assert loop.time() - began == pytest.approx(5, abs=0.01)
        assert (await fixture.pull()).input_data == 1
        await fixture.queue.aclose()

    run_virtual(main())


def test_worker_that_waits_for_an_input_takes_a_ready_item(run_virtual: Run) -> None:
    async def main() -> None:
        fixture = Fixture(numbers(range(2), delay_s=10))
        item = await fixture.pull()
        waiting = asyncio.ensure_future(fixture.pull())
        await asyncio.sleep(1)
        fixture.push(item, 2)
        assert await waiting is item
        assert (await fixture.pull()).input_data == 1, "the pending input is not lost"
        await fixture.queue.aclose()

    run_virtual(main())


def test_source_error_is_raised_once_the_items_have_ended(run_virtual: Run) -> None:
    async def failing() -> AsyncIterator[int]:
        yield 1
        raise OSError("cursor lost")

    async def main() -> None:
        fixture = Fixture(failing())
        item = await fixture.pull()
        waiting = asyncio.ensure_future(fixture.pull())
        await asyncio.sleep(1)
        fixture.push(item, 1)
        assert await waiting is item, "a ready item comes before the error"
        last = asyncio.ensure_future(fixture.pull())
        await asyncio.sleep(1)
        fixture.finish(item)
        with pytest.raises(OSError, match="cursor lost"):
            await last

    run_virtual(main())


def test_stopped_queue_releases_its_workers_and_its_items(run_virtual: Run) -> None:
    async def main() -> None:
        fixture = Fixture(range(2), bound=5)
        first, second = [await fixture.pull() for _ in range(2)]
        fixture.push(first, 3600)
        fixture.push(second, 1800)
        waiting = [asyncio.ensure_future(fixture.pull()) for _ in range(2)]
        await asyncio.sleep(1)
        fixture.queue.stop()
        assert [await each for each in waiting] == [END, END]
        assert list(fixture.queue.take_requeued()) == [second, first]
        assert fixture.batch.queued == 0
        assert list(fixture.queue.take_requeued()) == []

    run_virtual(main())
