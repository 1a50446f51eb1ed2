"""Crashes of worker processes: attribution, reruns, counts."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowrt import BatchProcessor, ProcessesExecutor
from flowrt.errors import ExecutorFailedError, WorkerCrashed
from flowrt.executors.workers import WorkerState
from tests.executors import worker_nodes as nodes

Run = Callable[[Any], Any]
HOWS = ["SIGKILL", "SIGSEGV", "exit status 3"]


@pytest.fixture
def run() -> Run:
    import uvloop

    from flowrt.testing import run_on

    return lambda main: run_on(uvloop.new_event_loop, main)


def batch(run: Run, node: Any, items: list[Any], c: int = 20, *, workers: int = 2, **settings: Any) -> Any:
    given = {
        name: settings.pop(name)
        for name in ("initializer", "max_crashes", "recycle_after", "memory_limit")
        if name in settings
    }

    async def main() -> Any:
        async with ProcessesExecutor(workers, **given) as executor:
            results = await BatchProcessor(node, c, telemetry=False, executor=executor, **settings).batch(items)
            return results, states_of(executor)

    return run(main())


def states_of(executor: ProcessesExecutor) -> list[WorkerState]:
    """Return the states of one executor's workers: other tests' executors may be open."""
    return [state for pool in executor._pools for state in pool.worker_states()]


def restarts(states: list[WorkerState]) -> Counter[str]:
    """Return the number of workers that were replaced, by reason."""
    return +sum((Counter(state.restarts) for state in states), Counter())


def items_of(tmp_path: Path, count: int, **special: dict[str, Any]) -> list[dict[str, Any]]:
    log = tmp_path / "log"
    log.touch()
    return [{"x": x, "log": str(log), **special.get(f"item{x}", {})} for x in range(count)]


def executions(tmp_path: Path) -> Counter[int]:
    return Counter(map(int, (tmp_path / "log").read_text().split()))


@pytest.mark.parametrize("how", HOWS)
def test_crash_blames_only_the_plain_function_that_ran(run: Run, tmp_path: Path, how: str) -> None:
    items = items_of(tmp_path, 40, item7={"dies": how})
    results, states = batch(run, nodes.maybe_die, items)
    assert [r.output for r in results if r.index != 7] == [x * 2 for x in range(40) if x != 7]
    bad = results[7]
    assert bad.status == "failed"
    assert bad.error_type == "WorkerCrashed"
    assert isinstance(bad.exception, WorkerCrashed)
    assert bad.exception.how == how
    assert how in bad.error
    assert executions(tmp_path) == {x: 3 if x == 7 else 1 for x in range(40)}
    assert all(r.attempts == 1 for r in results)
    assert sum(state.restarts["crash"] for state in states) == 3
    if how == "exit status 3":
        assert bad.exception.last_lines == ("about to leave",)


def test_item_that_crashes_twice_succeeds_the_third_time(run: Run, tmp_path: Path) -> None:
    items = items_of(tmp_path, 10, item3={"dies": "SIGKILL", "spares": 2})
    results, _ = batch(run, nodes.maybe_die, items)
    assert [r.output for r in results] == [x * 2 for x in range(10)]
    assert executions(tmp_path)[3] == 3
    assert results[0].batch.reruns == 2


def test_suspect_coroutines_run_alone_after_a_second_crash(run: Run, tmp_path: Path) -> None:
    items = items_of(tmp_path, 12, item5={"dies": "SIGKILL"})
    results, states = batch(run, nodes.maybe_die_later, items)
    assert [r.output for r in results if r.index != 5] == [x * 2 for x in range(12) if x != 5]
    assert results[5].error_type == "WorkerCrashed"
    ran = executions(tmp_path)
    assert ran[5] == 3
    assert max(ran.values()) <= 3
    assert sum(state.restarts["crash"] for state in states) == 3


def test_workers_that_never_get_ready_end_the_batch_with_what_they_printed(run: Run) -> None:
    with pytest.raises(ExecutorFailedError, match="no model at /models/none"):
        batch(run, nodes.nap, [0.0] * 4, initializer=nodes.refuse)


def test_memory_limit_of_the_system_fails_the_item_alone(run: Run) -> None:
    results, states = batch(run, nodes.eat_memory, [10, 2_000_000_000, 20], workers=1, initializer=nodes.limit_memory)
    assert [r.output for r in results] == [10, None, 20]
    assert results[1].error_type == "MemoryError"
    assert sum(state.restarts["crash"] for state in states) == 0


@pytest.mark.parametrize("node", [nodes.compute, nodes.nap])
def test_time_limit_kills_the_worker_of_a_plain_function(run: Run, node: Any) -> None:
    slow: list[Any] = [0.0] * 3 + [1_000.0] + [0.0] * 6
    results, states = batch(run, node, slow, item_timeout=3.0)
    assert [r.status for r in results] == ["timed_out" if seconds else "ok" for seconds in slow]
    assert all(r.attempts == 1 for r in results)
    assert restarts(states) == {"timeout": 1}


def test_stopped_worker_is_killed_at_the_time_limit(run: Run, tmp_path: Path) -> None:
    items = items_of(tmp_path, 10, item4={"dies": "SIGSTOP"})
    results, _ = batch(run, nodes.maybe_die, items, item_timeout=3.0)
    assert [r.status for r in results if r.index != 4] == ["ok"] * 9
    assert results[4].status == "timed_out"
    assert set(executions(tmp_path).values()) == {1}


def test_cancelled_batch_ends_and_leaves_the_executor_usable(run: Run) -> None:
    async def main() -> None:
        async with ProcessesExecutor(2) as executor:
            results = await BatchProcessor(nodes.nap, 6, telemetry=False, executor=executor, batch_timeout=0.7).batch(
                [1_000.0] * 6
            )
            assert {r.status for r in results} == {"cancelled"}
            again = await BatchProcessor(nodes.nap, 6, telemetry=False, executor=executor).batch([0.0] * 6)
            assert {r.status for r in again} == {"ok"}

    run(main())


def test_worker_killed_for_a_cancelled_batch_counts_as_cancelled(run: Run, tmp_path: Path) -> None:
    async def main() -> list[WorkerState]:
        async with ProcessesExecutor(1) as executor:
            processor = BatchProcessor(nodes.outlast, 1, telemetry=False, executor=executor, item_timeout=600.0)
            stopped = asyncio.ensure_future(processor.batch([str(tmp_path)]))
            while not (tmp_path / "pid").exists():
                await asyncio.sleep(0.01)
            stopped.cancel()
            await asyncio.wait([stopped])
            return states_of(executor)

    assert restarts(run(main())) == {"cancelled": 1}


def test_twenty_kills_of_random_workers_lose_and_repeat_nothing(run: Run, tmp_path: Path) -> None:
    items, choose = items_of(tmp_path, 5_000), random.Random(7)  # noqa: S311

    async def main() -> tuple[list[Any], int, int]:
        results: list[Any] = []
        kills = 0
        async with ProcessesExecutor(2) as executor:
            processor = BatchProcessor(nodes.maybe_die, 200, telemetry=False, executor=executor)
            async for result in processor.batch_as_completed(items):
                results.append(result)
                if kills < 20 and len(results) >= 240 * (kills + 1):
                    pids = [state.pid for state in states_of(executor) if state.ready and state.inflight]
                    if pids:
                        os.kill(choose.choice(pids), signal.SIGKILL)
                        kills += 1
            return results, kills, sum(state.restarts["crash"] for state in states_of(executor))

    results, kills, crashes = run(main())
    assert kills == 20
    assert 0 < crashes <= 20  # the last ones may be noticed after the end, and two may hit one worker
    assert sorted(r.index for r in results) == list(range(5_000))
    assert all(r.output == r.index * 2 and r.status == "ok" and r.attempts == 1 for r in results)
    assert executions(tmp_path).total() <= 5_000 + kills
    assert results[0].batch.reruns <= kills
