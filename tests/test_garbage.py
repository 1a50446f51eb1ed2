"""A runtime's word to the garbage collector, and that it takes it back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from flowrt import Runtime


@pytest.fixture(autouse=True)
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, *before[1:])
    yield
    gc.set_threshold(*before)


def test_what_is_there_at_the_start_is_out_of_the_garbage_collectors_sight_until_the_last_runtime_ends() -> None:
    async def main() -> list[bool]:
        counts = []
        async with Runtime(log_level="ERROR"):
            counts.append(gc.get_freeze_count())
            async with Runtime(log_level="ERROR"):
                counts.append(gc.get_freeze_count())
            counts.append(gc.get_freeze_count())
        counts.append(gc.get_freeze_count())
        return [count > 0 for count in counts]

    assert asyncio.run(main()) == [True, True, True, False]


def test_what_somebody_has_frozen_stays_so() -> None:
    async def main() -> None:
        async with Runtime(log_level="ERROR"):
            pass

    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        asyncio.run(main())
        assert 0 < gc.get_freeze_count() <= frozen
    finally:
        gc.unfreeze()


def test_it_comes_less_often_until_the_last_runtime_ends() -> None:
    async def main() -> list[int]:
        young = []
        async with Runtime(log_level="ERROR"):
            young.append(gc.get_threshold()[0])
            async with Runtime(log_level="ERROR"):
                pass
            young.append(gc.get_threshold()[0])
        young.append(gc.get_threshold()[0])
        return young

    assert asyncio.run(main()) == [5_000, 5_000, 700]


@pytest.mark.parametrize("chosen", [0, 50_000])
def test_a_collection_that_somebody_made_rarer_or_switched_off_stays_so(chosen: int) -> None:
    async def main() -> int:
        async with Runtime(log_level="ERROR"):
            return gc.get_threshold()[0]

    gc.set_threshold(chosen, *gc.get_threshold()[1:])
    assert asyncio.run(main()) == chosen
    assert gc.get_threshold()[0] == chosen


def test_what_is_changed_while_it_runs_stays_so() -> None:
    async def main() -> None:
        async with Runtime(log_level="ERROR"):
            gc.set_threshold(9_000, *gc.get_threshold()[1:])

    asyncio.run(main())
    assert gc.get_threshold()[0] == 9_000
