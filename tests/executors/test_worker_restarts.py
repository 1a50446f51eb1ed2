"""Worker processes that are ended and replaced although nothing crashed."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from pathlib import Path

import pytest

from flowrt import BatchProcessor, Hedge, ProcessesExecutor
from tests.executors import worker_nodes as nodes
from tests.executors.differences import alive


def restarts(executor: ProcessesExecutor) -> Counter[str]:
    """Return the number of an executor's workers that were replaced, by reason."""
    states = [state for pool in executor._pools for state in pool.worker_states()]
    return +sum((Counter(state.restarts) for state in states), Counter())


@pytest.mark.parametrize("naps", [[600.0, 0.0], [0.0, 600.0]], ids=["the item's own", "the hedge"])
def test_worker_of_the_attempt_that_a_hedged_item_lost_is_replaced(naps: list[float], tmp_path: Path) -> None:
    (tmp_path / "log").touch()

    async def main() -> None:
        async with ProcessesExecutor(2) as executor:
            hedge = Hedge(after=0.3, share=1.0)
            processor = BatchProcessor(nodes.nap_in_turn, 2, telemetry=False, executor=executor, hedge=hedge)
            async with asyncio.timeout(60.0):
                (result,) = await processor.batch([{"x": 1, "log": str(tmp_path / "log"), "naps": naps}])
            assert result.output == naps.index(min(naps)) + 1
            assert restarts(executor) == {"cancelled": 1}
            plain = BatchProcessor(nodes.pid_of, 4, telemetry=False, executor=executor)
            assert len({result.output for result in await plain.batch(range(200))}) <= 2

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the tasks that are left behind
def test_worker_that_runs_an_item_of_a_closed_loop_is_replaced(tmp_path: Path) -> None:
    async def started() -> int:
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
        return int((tmp_path / "pid").read_text())

    async def next_batch() -> int:
        async with asyncio.timeout(60.0):
            (result,) = await BatchProcessor(nodes.pid_of, 1, telemetry=False, executor=executor).batch([1])
        assert restarts(executor) == {"cancelled": 1}
        executor.close()
        return int(result.output)

    executor, loop = ProcessesExecutor(1), asyncio.new_event_loop()
    left = loop.create_task(BatchProcessor(nodes.outlast, 1, telemetry=False, executor=executor).batch([str(tmp_path)]))
    pid = loop.run_until_complete(started())
    loop.close()  # as a program does that leaves without waiting for its tasks
    assert asyncio.run(next_batch()) != pid
    assert not alive(pid)
    del left
    gc.collect()  # here, where their warnings are expected
