"""Admission: permits for items, and the queue of workers that wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flowrt import BatchProcessor
from flowrt.engine.admission import Admission

Run = Callable[[Any], Any]


def test_permits_are_granted_in_the_order_of_requests(run_virtual: Run) -> None:
    async def main() -> None:
        admission = Admission(2)
        entered: list[int] = []

        async def enter(i: int) -> None:
            if admission.free or await admission.wait():
                admission.free -= 1
                entered.append(i)

        tasks = [asyncio.create_task(enter(i)) for i in range(6)]
        await asyncio.sleep(0.1)
        assert entered == [0, 1]
        for _ in range(2):
            admission.release()
        await asyncio.sleep(0.1)
        assert entered == [0, 1, 2, 3]
        assert repr(admission) == "<Admission: 0 free, 2 waiting>"
        admission.close()
        assert not await admission.wait()
        admission.release()
        assert admission.free == 0
        await asyncio.wait(tasks)
        assert entered == [0, 1, 2, 3]

    run_virtual(main())


def test_waiting_worker_survives_a_stray_cancellation(run_virtual: Run) -> None:
    async def main() -> None:
        admission = Admission(0)
        entered: list[int] = []

        async def enter(i: int) -> None:
            if await admission.wait():
                admission.free -= 1
                entered.append(i)

        tasks = [asyncio.create_task(enter(i)) for i in range(2)]
        await asyncio.sleep(0.1)
        tasks[0].cancel()
        await asyncio.sleep(0.1)
        for _ in range(2):
            admission.release()
        await asyncio.wait(tasks)
        assert sorted(entered) == [0, 1]
        assert not any(task.cancelling() for task in tasks)

    run_virtual(main())


def test_room_for_results_of_a_closed_batch_passes_a_cancelled_waiter(run_virtual: Run) -> None:
    async def main() -> None:
        admission = Admission(0)
        admission.close()
        first, second = [asyncio.create_task(admission.take_capacity()) for _ in range(2)]
        await asyncio.sleep(0)
        first.cancel()
        admission.release()
        await asyncio.wait_for(second, 1)
        assert first.cancelled()

    run_virtual(main())


def test_permits_withheld_by_a_pause_are_capacity_after_closing(run_virtual: Run) -> None:
    async def main() -> None:
        admission = Admission(2)
        admission.pause()
        admission.close()
        for _ in range(2):
            await asyncio.wait_for(admission.take_capacity(), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(admission.take_capacity(), 1)

    run_virtual(main())


def test_raised_limit_of_a_running_stream_admits_more(run_virtual: Run) -> None:
    running = most = 0

    async def node(x: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1
        return x

    async def main() -> None:
        processor = BatchProcessor(node, 2)
        seen = 0
        async for _ in processor.batch_as_completed(range(40)):
            seen += 1
            if seen == 4:
                assert most == 2
                processor.set_max_concurrency(6)
        assert seen == 40
        assert most == 6

    run_virtual(main())


def test_resize_adds_as_many_permits_as_the_limit_grows() -> None:
    admission = Admission(2)
    admission.resize(5)
    assert admission.free == 5
    admission.resize(5)
    admission.resize(3)
    assert admission.free == 5, "permits that results may hold are never taken back"
    admission.close()
    admission.resize(9)
    assert admission.free == 0
