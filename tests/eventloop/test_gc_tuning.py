"""Tuning of the garbage collector by a runtime, and by nothing else."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator

import pytest

import flowrt
from flowrt import BatchProcessor, Runtime
from flowrt.eventloop.gc_tuning import GcPauses, freeze_loaded


@pytest.fixture(autouse=True)
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, *before[1:])
    yield
    gc.set_threshold(*before)


def test_start_up_objects_are_frozen_until_the_last_runtime_ends() -> None:
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


def test_what_is_loaded_later_is_frozen_only_inside_a_runtime() -> None:
    async def main() -> tuple[int, int]:
        async with Runtime(log_level="ERROR"):
            before = gc.get_freeze_count()
            loaded = [[number] for number in range(10_000)]
            freeze_loaded()
            return len(loaded), gc.get_freeze_count() - before

    loaded, frozen = asyncio.run(main())
    assert frozen >= loaded
    freeze_loaded()
    assert gc.get_freeze_count() == 0


def test_objects_frozen_by_other_code_stay_frozen() -> None:
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


def test_threshold_is_raised_until_the_last_runtime_ends() -> None:
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
def test_collector_that_is_off_or_has_a_high_threshold_stays(chosen: int) -> None:
    async def main() -> int:
        async with Runtime(log_level="ERROR"):
            return gc.get_threshold()[0]

    gc.set_threshold(chosen, *gc.get_threshold()[1:])
    assert asyncio.run(main()) == chosen
    assert gc.get_threshold()[0] == chosen


def test_threshold_set_by_other_code_meanwhile_stays() -> None:
    async def main() -> None:
        async with Runtime(log_level="ERROR"):
            gc.set_threshold(9_000, *gc.get_threshold()[1:])

    asyncio.run(main())
    assert gc.get_threshold()[0] == 9_000


def test_runtime_without_gc_tuning_changes_nothing() -> None:
    async def main() -> tuple[int, int]:
        async with Runtime(log_level="ERROR", gc_tuning=False):
            return gc.get_threshold()[0], gc.get_freeze_count()

    assert asyncio.run(main()) == (700, 0)


def test_run_passes_gc_tuning_on() -> None:
    async def main() -> int:
        return gc.get_threshold()[0]

    assert flowrt.run(main(), log_level="ERROR") == 5_000
    assert flowrt.run(main(), log_level="ERROR", gc_tuning=False) == 700


@pytest.mark.parametrize("limit", [10, 1_000])
def test_batch_without_a_runtime_changes_nothing(limit: int) -> None:
    async def node(number: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return gc.get_threshold()[0], gc.get_freeze_count()

    (result,) = asyncio.run(BatchProcessor(node, limit).batch([1]))
    assert result.output == (700, 0)


def test_pauses_are_recorded_with_the_current_one() -> None:
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
    pauses._record("start", {})
    later = time.perf_counter_ns() + 1_000
    assert 0 < pauses.between(ended, later) < later - ended
    pauses._record("stop", {})
    pauses.stop()
    assert pauses._record not in gc.callbacks
    later = time.perf_counter_ns()
    gc.collect()
    assert pauses.between(later, time.perf_counter_ns()) == 0
