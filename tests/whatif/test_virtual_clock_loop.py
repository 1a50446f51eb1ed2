"""Event loop with a virtual clock."""

from __future__ import annotations

import asyncio
import time

import pytest

from flowrt._util.clock import is_virtual
from flowrt.whatif.virtual_clock_loop import VirtualLoop, run_virtual


def test_a_day_of_sleep_takes_no_time_and_wakes_in_order() -> None:
    woken: list[tuple[float, int]] = []

    async def sleeper(hours: int) -> None:
        await asyncio.sleep(3600 * hours)
        woken.append((asyncio.get_running_loop().time(), hours))

    async def main() -> None:
        await asyncio.gather(*(sleeper(hours) for hours in (24, 1, 5)))

    began = time.monotonic()
    run_virtual(main())
    assert time.monotonic() - began < 30
    assert woken == [(3600, 1), (18_000, 5), (86_400, 24)]


def test_timeout_fires_in_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.sleep(1e6)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 10


def test_waiting_for_ever_raises_instead_of_hanging() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="standstill"):
        run_virtual(main())


def test_wait_below_the_clock_resolution_ends() -> None:
    async def main() -> float:
        await asyncio.sleep(1e8)
        for _ in range(10):
            await asyncio.sleep(1e-9)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(1e8)


def test_engine_recognises_the_virtual_clock() -> None:
    loop = VirtualLoop()
    try:
        assert is_virtual(loop)
    finally:
        loop.close()
