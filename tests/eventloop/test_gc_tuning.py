"""The word of a runtime and of a batch to the garbage collector, and that they take it back."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator

import pytest

from flowrt import BatchProcessor, Runtime
from flowrt.eventloop.gc_tuning import GcPauses, GcThreshold


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


def young() -> int:
    return gc.get_threshold()[0]


async def young_within(number: int) -> int:
    await asyncio.sleep(0)
    return young()


def seen_in_a_batch(limit: int) -> int:
    (result,) = asyncio.run(BatchProcessor(young_within, limit, telemetry=False).batch([1]))
    assert isinstance(result.output, int)
    return result.output


@pytest.mark.parametrize(("limit", "expected"), [(10, 700), (100, 2_000), (1_000, 20_000), (100_000, 50_000)])
def test_while_a_batch_runs_it_waits_for_what_is_in_flight_to_end(limit: int, expected: int) -> None:
    assert seen_in_a_batch(limit) == expected
    assert young() == 700


def test_a_batch_changes_nothing_where_there_is_no_collection() -> None:
    gc.set_threshold(0, *gc.get_threshold()[1:])
    assert seen_in_a_batch(1_000) == 0
    assert young() == 0


def test_of_several_the_largest_counts() -> None:
    small, large = GcThreshold(3_000), GcThreshold(30_000)
    assert young() == 30_000
    large.resize(4_000)
    assert young() == 4_000
    large.end()
    large.end()
    assert young() == 3_000
    small.end()
    assert young() == 700


def test_what_somebody_chooses_meanwhile_is_there_at_the_end() -> None:
    first = GcThreshold(3_000)
    gc.set_threshold(900, *gc.get_threshold()[1:])
    second = GcThreshold(4_000)
    assert young() == 4_000
    first.end()
    second.end()
    assert young() == 900


def test_a_batch_that_is_lost_wants_nothing_any_more() -> None:
    lost = GcThreshold(3_000)
    del lost
    other = GcThreshold(2_000)
    assert young() == 2_000
    other.end()
    assert young() == 700


def test_pauses_are_remembered_with_one_that_goes_on() -> None:
    pauses = GcPauses()
    began = time.perf_counter_ns()
    pauses.start()
    gc.collect()
    ended = time.perf_counter_ns()
    whole = pauses.between(began, ended)
    assert 0 < whole <= ended - began
    assert pauses.between(ended, ended + 10) == 0
    middle = began + (ended - began) // 2
    assert pauses.between(began, middle) + pauses.between(middle, ended) == whole
    pauses._told("start", {})
    later = time.perf_counter_ns() + 1_000
    assert 0 < pauses.between(ended, later) < later - ended
    pauses._told("stop", {})
    pauses.stop()
    assert pauses._told not in gc.callbacks
    later = time.perf_counter_ns()
    gc.collect()
    assert pauses.between(later, time.perf_counter_ns()) == 0
