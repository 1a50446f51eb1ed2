"""Result stream of `batch_as_completed`: order, backpressure, early ends and the single consumer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowrt import BatchProcessor
from tests.engine.test_batch_run import Watch, processor

Run = Callable[[Any], Any]


def test_stream_yields_results_in_the_order_in_which_they_finish(run_virtual: Run) -> None:
    async def main() -> list[int]:
        return [r.index async for r in processor(asyncio.sleep, 4).batch_as_completed([3, 1, 2, 0.5])]

    assert run_virtual(main()) == [3, 1, 2, 0]


def test_stream_yields_each_item_once(run: Run) -> None:
    async def main() -> list[int]:
        return [r.output async for r in processor(Watch(0.001), 10).batch_as_completed(range(100))]

    assert sorted(run(main())) == list(range(100))


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_slow_consumer_holds_the_batch_back(seconds: float, run_virtual: Run) -> None:
    watch = Watch(seconds)

    async def main() -> None:
        taken = 0
        async for _ in processor(watch, 5).batch_as_completed(range(60)):
            taken += 1
            await asyncio.sleep(1)
            assert watch.started - taken <= 5, "at most one finished result per slot waits"
        assert taken == 60

    run_virtual(main())


def test_consumer_that_stops_reading_stops_the_batch(run_virtual: Run) -> None:
    watch = Watch(0.01)

    async def main() -> None:
        stream = processor(watch, 5).batch_as_completed(range(1_000))
        await anext(stream)
        await asyncio.sleep(100)
        assert watch.started <= 6
        await stream.aclose()

    run_virtual(main())


def test_leaving_the_loop_cancels_the_items_in_flight(run_virtual: Run) -> None:
    watch = Watch(10)

    async def main() -> None:
        async for _ in processor(watch, 5).batch_as_completed(range(1_000)):
            break
        await asyncio.sleep(2)
        assert watch.running == 0
        assert watch.started <= 10
        assert len(asyncio.all_tasks()) <= 2

    run_virtual(main())


def test_aclose_and_async_with_await_the_items_in_flight(run_virtual: Run) -> None:
    async def main() -> None:
        for close in (True, False):
            watch = Watch(10)
            stream = processor(watch, 5).batch_as_completed(range(1_000))
            if close:
                await anext(stream)
                await asyncio.sleep(1)
                await stream.aclose()
            else:
                async with stream:
                    await anext(stream)
                    await asyncio.sleep(1)
            assert watch.running == 0
            assert watch.cancelled > 0
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            await stream.aclose()

    run_virtual(main())


def test_cancelling_the_consumer_cancels_and_awaits_the_batch(run_virtual: Run) -> None:
    watch = Watch(10)

    async def consume() -> None:
        async for _ in processor(watch, 5).batch_as_completed(range(1_000)):
            pass

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(), 15)
        assert watch.running == 0
        assert (watch.done, watch.cancelled) == (5, 5)

    run_virtual(main())


def test_stream_starts_nothing_before_its_first_read(run_virtual: Run) -> None:
    watch = Watch(1)

    async def main() -> None:
        stream = processor(watch).batch_as_completed(range(5))
        await asyncio.sleep(5)
        assert watch.started == 0
        await stream.aclose()
        assert watch.started == 0

    run_virtual(main())


def test_inputs_of_a_wrong_type_are_refused_at_the_call(run_virtual: Run) -> None:
    with pytest.raises(TypeError, match="a str is one item"):
        processor(Watch()).batch_as_completed("text")


def test_fail_fast_stream_yields_finished_results_and_then_raises(run_virtual: Run) -> None:
    async def main() -> None:
        seen = []
        stream = processor(Watch(1), 2, continue_on_error=False).batch_as_completed(["a", "b", "fail", "c", "d"])
        seen.extend([(await anext(stream)).status for _ in range(2)])
        assert seen == ["ok", "ok"]
        assert (await anext(stream)).status == "failed"
        assert (await anext(stream)).status == "cancelled"
        with pytest.raises(ValueError, match="asked to fail"):
            await anext(stream)

    run_virtual(main())


def test_second_consumer_of_a_stream_is_refused(run_virtual: Run) -> None:
    async def main() -> None:
        stream = processor(Watch(1)).batch_as_completed(range(5))
        first = asyncio.create_task(anext(stream))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        with pytest.raises(RuntimeError, match="one consumer"):
            await anext(stream)
        await first
        await stream.aclose()

    run_virtual(main())


@pytest.mark.parametrize(
    "way_out",
    [
        "async for r in p.batch_as_completed(range(100)):\n        break",
        "try: await asyncio.wait_for(p.batch(range(100)), 0.01)\n    except TimeoutError: pass",
        "try: await p.batch([0.5, 'x', 1], continue_on_error=False)\n    except TypeError: pass",
        "s = p.batch_as_completed(range(100)); await anext(s)",
        "asyncio.get_running_loop().create_task(p.batch(range(100))); await asyncio.sleep(0.01)",
    ],
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_way_to_end_writes_a_warning_to_stderr(way_out: str, loop: str) -> None:
    code = f"""
import asyncio, gc, logging, flowrt, {loop}
logging.getLogger("asyncio").setLevel("ERROR")  # -X dev warns of each turn that a busy machine makes slow
async def node(x):
    try:
        await asyncio.sleep(x / 100)
    finally:
        await asyncio.sleep(0.001)
async def main():
    p = flowrt.BatchProcessor(node, 5)
    {way_out}
{loop}.run(main())
gc.collect()
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_repr_of_a_stream_shows_its_state() -> None:
    assert "not started" in repr(BatchProcessor(asyncio.sleep, telemetry=False).batch_as_completed([]))


class CountingList(list[int]):
    """List that counts how many of its elements were pulled."""

    pulled = 0

    def __iter__(self) -> Iterator[int]:
        for item in super().__iter__():
            self.pulled += 1
            yield item


def test_rest_after_a_batch_timeout_is_yielded_at_the_consumer_s_pace(run_virtual: Run) -> None:
    inputs = CountingList(range(10_000))

    async def main() -> None:
        statuses = []
        async for result in BatchProcessor(asyncio.sleep, 3, batch_timeout=2.5, telemetry=False).batch_as_completed(
            inputs
        ):
            statuses.append(result.status)
            assert inputs.pulled <= len(statuses) + 4
            if len(statuses) == 50:
                break
        assert "cancelled" in statuses

    run_virtual(main())
    assert inputs.pulled < 60


def test_rest_of_a_long_batch_after_its_timeout_does_not_block_the_loop(run: Run) -> None:
    async def main() -> None:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        watcher = asyncio.create_task(count_turns())
        processor = BatchProcessor(asyncio.sleep, 3, batch_timeout=0.01, telemetry=False)
        results = await processor.batch([10.0] * 30_000)
        watcher.cancel()
        assert {result.status for result in results} == {"cancelled"}
        assert len(results) == 30_000
        assert turns > 10

    run(main())
