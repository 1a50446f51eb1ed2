"""The heartbeat that measures how late the loop runs its timers."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable
from typing import Any

from flowrt.eventloop.heartbeat import heartbeat_of

Run = Callable[[Any], Any]


def test_a_blocked_loop_is_late_by_as_long_as_it_was_blocked(run: Run) -> None:
    async def main() -> list[int]:
        beats: list[int] = []
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire(beats.append)
        await asyncio.sleep(0)
        time.sleep(0.3)
        while not beats:
            await asyncio.sleep(0.01)
        heartbeat.release(beats.append)
        return beats

    assert max(run(main())) > 0.15e9


def test_a_batch_that_never_lets_the_loop_turn_is_late_all_the_same(run: Run) -> None:
    async def main() -> list[int]:
        beats: list[int] = []
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire(beats.append)
        time.sleep(0.2)
        heartbeat.release(beats.append)
        return beats

    (late,) = run(main())
    assert late > 0.05e9


def test_the_beats_go_on_when_one_cannot_be_told(run: Run) -> None:
    async def main() -> int:
        told: list[int] = []
        broken: list[object] = []

        def report(late_ns: int) -> None:
            told.append(late_ns)
            if len(told) == 1:
                raise OSError("nobody reads")

        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context["exception"]))
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire(report)
        async with asyncio.timeout(30.0):
            while len(told) < 3:
                await asyncio.sleep(0.01)
        heartbeat.release(report)
        return len(broken)

    assert run(main()) == 1


def test_listeners_share_one_heartbeat_that_ends_with_the_last(run: Run) -> None:
    async def main() -> None:
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        assert heartbeat_of(asyncio.get_running_loop()) is heartbeat
        beats: list[int] = []
        heartbeat.acquire(beats.append)
        heartbeat.acquire(beats.append)
        heartbeat.release(beats.append)
        while not beats:
            await asyncio.sleep(0.01)
        heartbeat.release(beats.append)
        count = len(beats)
        await asyncio.sleep(0.25)
        assert len(beats) == count

    run(main())


def test_virtual_time_has_no_lag_and_costs_no_beats(run_virtual: Run) -> None:
    async def main() -> list[int]:
        beats: list[int] = []
        heartbeat = heartbeat_of(asyncio.get_running_loop())
        heartbeat.acquire(beats.append)
        await asyncio.sleep(30 * 24 * 3600)
        heartbeat.release(beats.append)
        return beats

    assert run_virtual(main()) == []


def test_a_heartbeat_does_not_keep_its_loop_alive() -> None:
    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.get_running_loop()
        heartbeat_of(loop).acquire()
        heartbeat_of(loop).release()
        return weakref.ref(loop)

    loop = asyncio.run(main())
    gc.collect()
    assert loop() is None
