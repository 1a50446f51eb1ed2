"""Worker processes from their start to their end, and the objects that are sent to them and back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import uvloop

from flowrt import BatchProcessor, ProcessesExecutor, Runtime
from flowrt.engine.batch_run import active_batches
from flowrt.executors import executor_of
from flowrt.executors.pickling import PicklingError, dumps_alone
from flowrt.executors.workers import WorkerState
from flowrt.testing import capture_telemetry, run_on
from tests.executors import worker_nodes as nodes
from tests.executors.differences import alive
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0


def run(main: Any) -> Any:
    return run_on(uvloop.new_event_loop, main)


def states_of(executor: ProcessesExecutor) -> list[WorkerState]:
    """Return the states of one executor's workers: other tests' executors may be open."""
    return [state for pool in executor._pools for state in pool.worker_states()]


def processor(node: Any, executor: Any, c: int = 10, **settings: Any) -> BatchProcessor[Any, Any]:
    return BatchProcessor(node, c, telemetry=False, executor=executor, **settings)


def test_what_cannot_be_pickled_fails_that_item_alone() -> None:
    async def main() -> Any:
        async with ProcessesExecutor(1) as executor:
            inputs = [1, nodes.Holder(), nodes.Unloadable(), 2, "unpicklable", "unloadable", "unloadable inside", 3]
            return await processor(nodes.describe, executor).batch(inputs)

    results = run(main())
    assert [r.status for r in results] == ["ok", "failed", "failed", "ok", "failed", "failed", "failed", "ok"]
    assert "the input.lock is a lock, which cannot be pickled" in results[1].error
    assert "broken state" in results[2].error
    assert "['holder'].lock is a lock" in results[4].error
    assert "broken state" in results[5].error
    assert "broken state" in results[6].error
    assert isinstance(results[4].exception, PicklingError)
    assert [r.output for r in results if r.success] == [1, 2, 3]


def test_node_that_cannot_be_pickled_is_refused_before_any_work() -> None:
    lock = threading.Lock()
    touched: list[int] = []

    def inputs() -> Any:
        touched.append(1)
        yield 1

    async def main() -> None:
        executor = ProcessesExecutor(1)
        with pytest.raises(TypeError, match=r"its variable 'lock'.*cannot be pickled"):
            await processor(lambda item: (lock, item), executor).batch(inputs())
        assert not [state for state in states_of(executor) if state.pid]
        executor.close()

    run(main())
    assert not touched


lock, step = threading.Lock(), 1


def held(item: int) -> int:
    with lock:
        return item + step


def test_global_variable_that_cannot_be_pickled_is_named() -> None:
    script = {"__name__": "__main__", "lock": lock, "step": step, "unused": threading.Lock()}
    of_script = FunctionType(held.__code__, script)
    with pytest.raises(PicklingError, match=r"^node 'held' \(its global variable 'lock'\) is a lock, which cannot be"):
        dumps_alone(of_script, "node 'held'")


def test_workers_stay_warm_from_batch_to_batch_and_loop_to_loop() -> None:
    executor = ProcessesExecutor(1)
    try:
        first = run(processor(nodes.pid_of, executor).batch([1]))
        again = run(processor(nodes.pid_of, executor).batch([1, 2]))
        assert {r.output for r in [*first, *again]} == {first[0].output}
        os.kill(first[0].output, signal.SIGKILL)  # while no batch runs
        wait_until(lambda: not alive(first[0].output), "the worker has ended")
        (replaced,) = run(processor(nodes.pid_of, executor).batch([1]))
        assert replaced.status == "ok"
        assert replaced.output != first[0].output
    finally:
        executor.close()
    wait_until(lambda: not alive(replaced.output), "close() has ended the worker")


async def _run_until_replaced(node: Any, reason: str, executor: ProcessesExecutor) -> list[Any]:
    """Run items until a worker was replaced, and some more: on a slow machine the new one takes seconds to start."""
    results: list[Any] = []
    more = 100
    async with executor, contextlib.aclosing(processor(node, executor).batch_as_completed(itertools.count())) as stream:
        async for result in stream:
            results.append(result)
            (state,) = states_of(executor)
            more -= state.restarts[reason] > 0
            if not more:
                assert not sum(state.restarts[each] for each in state.restarts if each != reason)
                return results
    raise AssertionError("the stream has ended")


def test_worker_is_recycled_after_its_number_of_items_without_a_gap() -> None:
    results = run(_run_until_replaced(nodes.pid_after_a_nap, "recycled", ProcessesExecutor(1, recycle_after=100)))
    assert all(r.success and r.attempts == 1 for r in results)
    assert len({r.output for r in results}) >= 2
    assert sorted(r.index for r in results)[:100] == list(range(100))


def test_worker_over_its_memory_limit_is_replaced() -> None:
    results = run(_run_until_replaced(nodes.keep_memory, "memory", ProcessesExecutor(1, memory_limit=300_000_000)))
    assert all(r.success for r in results)


def test_initializer_runs_once_in_each_worker() -> None:
    async def main() -> Any:
        async with ProcessesExecutor(2, initializer=nodes.load_model) as executor:
            return await processor(nodes.use_model, executor).batch(range(20))

    assert {r.output for r in run(main())} == {1}


def test_workers_end_with_a_killed_driver_even_while_they_compute(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, str(_driver(tmp_path, "nodes.compute, [600.0] * 2"))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert driver.stdout is not None
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
    finally:
        driver.kill()
        driver.communicate()
    wait_until(lambda: not any(map(alive, pids)), "the workers have ended")


def test_interrupt_from_the_terminal_reaches_the_driver_alone(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, str(_driver(tmp_path, "nodes.nap_async, [1.0] * 2 + [600.0] * 8"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        assert driver.stdout is not None
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        os.killpg(driver.pid, signal.SIGINT)  # as Ctrl-C does
        _, errors = driver.communicate(timeout=PATIENCE_S)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 130, errors
    assert "Traceback" not in errors
    wait_until(lambda: not any(map(alive, pids)), "the workers have ended")


def _driver(tmp_path: Path, call: str) -> Path:
    """Start a program that runs a batch and prints the pids of its workers."""
    script = tmp_path / "driver.py"
    script.write_text(f"""
import asyncio, flowrt
from flowrt.executors.workers import worker_states
from tests.executors import worker_nodes as nodes
from tests.executors.differences import alive

async def tell():
    while not all(state.inflight for state in worker_states()) or not worker_states():
        await asyncio.sleep(0.02)
    print(*[state.pid for state in worker_states()], flush=True)

async def main():
    telling = asyncio.create_task(tell())
    node, items = {call}
    await flowrt.BatchProcessor(node, 10, executor=flowrt.ProcessesExecutor(2)).batch(items)

flowrt.run(main(), log_level="CRITICAL", grace=0.5)
""")
    return script


def test_spans_of_a_worker_nest_under_the_items_span() -> None:
    async def main() -> Any:
        async with ProcessesExecutor(1) as executor:
            plain = await BatchProcessor(nodes.current_span, 2, executor=executor).batch([1, 2])
            return [*plain, *await BatchProcessor(nodes.current_span_async, 2, executor=executor).batch([1, 2])]

    with capture_telemetry():
        results = run(main())
    assert [r.output for r in results] == [(r.trace_id, r.span_id, True) for r in results]


def test_lines_that_a_worker_writes_last_are_seen_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with ProcessesExecutor(1) as executor:
            await processor(nodes.say_at_the_end, executor).batch([1])

    with caplog.at_level(logging.INFO, logger="flowrt"):
        run(main())
    (line,) = [r.getMessage() for r in caplog.records if "worker.stderr" in r.getMessage()]
    assert "the end" in line


def test_worker_freezes_what_it_has_loaded() -> None:
    async def main() -> Any:
        async with ProcessesExecutor(1) as executor:
            return await processor(nodes.collector_settings, executor).batch([1])

    (result,) = run(main())
    frozen, young = result.output
    assert frozen > 1_000
    assert young == 5_000


def test_lines_of_standard_error_become_rate_limited_events(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrt.telemetry.worker_events._allowances", {})  # an earlier test has used some

    async def main() -> None:
        async with ProcessesExecutor(1) as executor:
            await processor(nodes.say, executor).batch([200, 0])
            while sum("worker.stderr" in r.getMessage() for r in caplog.records) < 20:
                await processor(nodes.say, executor).batch([0])
                await asyncio.sleep(0.05)

    with caplog.at_level(logging.INFO, logger="flowrt"):
        run(main())
    lines = [r.getMessage() for r in caplog.records if "worker.stderr" in r.getMessage()]
    assert "line 0" in lines[0]
    assert "worker=w0" in lines[0]
    assert len(lines) < 100


def test_runtime_ends_the_workers_of_the_shared_executor() -> None:
    async def main() -> int:
        async with Runtime(log_level="CRITICAL"):
            (result,) = await processor(nodes.pid_of, "processes").batch([1])
            assert alive(result.output)
            return int(result.output)

    pid = asyncio.run(main())
    wait_until(lambda: not alive(pid), "the runtime has ended the worker")


@pytest.mark.parametrize("kind", [concurrent.futures.ProcessPoolExecutor, concurrent.futures.ThreadPoolExecutor])
def test_open_executor_of_the_standard_library_is_accepted(kind: Any) -> None:
    async def main(pool: Any) -> Any:
        plain = await processor(nodes.describe, pool).batch([*range(100), "odd error"])
        return plain, await processor(nodes.nap_async, pool).batch([0.0] * 20)

    context = {"mp_context": __import__("multiprocessing").get_context("spawn")} if "Process" in kind.__name__ else {}
    with contextlib.closing(_Shut(kind(1, **context))) as pool:
        plain, coroutines = run(main(pool.executor))
    assert [r.output for r in plain[:100]] == list(range(100))
    assert plain[100].error_type == "OddError"
    assert {r.status for r in coroutines} == {"ok"}
    with pytest.raises(ValueError, match="executor must be"):
        executor_of("process")


class _Shut:
    def __init__(self, executor: Any) -> None:
        self.executor = executor

    def close(self) -> None:
        self.executor.shutdown()


def test_loop_runs_while_an_executor_waits_for_its_workers_to_end() -> None:
    async def count() -> None:
        while True:
            await asyncio.sleep(0.01)
            turns.append(1)

    async def main() -> None:
        async with ProcessesExecutor(1, initializer=nodes.nap_at_exit) as executor:
            (result,) = await processor(nodes.pid_of, executor).batch([1])
            counting = asyncio.create_task(count())
        assert not alive(result.output)
        assert not states_of(executor)
        counting.cancel()

    turns: list[int] = []
    run(main())
    assert len(turns) > 5


def test_workers_are_in_use_while_a_batch_runs() -> None:
    async def main() -> None:
        async with ProcessesExecutor(1) as executor:
            stream = processor(nodes.pid_of, executor).batch_as_completed(itertools.count())
            async with contextlib.aclosing(stream):
                await anext(stream)
                assert [state.in_use for state in states_of(executor)] == [True]
            assert [state.in_use for state in states_of(executor)] == [False]

    run(main())


@pytest.mark.parametrize("end", ["drain", "stop"])
def test_items_in_the_queue_of_a_worker_name_the_reason_of_the_batchs_end(end: str, tmp_path: Path) -> None:
    async def main() -> Any:
        async with ProcessesExecutor(1) as executor:
            batch = asyncio.create_task(processor(nodes.outlast, executor, 6).batch([str(tmp_path)] * 6))
            async with asyncio.timeout(PATIENCE_S):
                while not (tmp_path / "pid").exists():
                    await asyncio.sleep(0.01)
                (run_,) = active_batches(asyncio.get_running_loop())
                while not any(slot.item is not None and slot.item.started_ns for slot in run_.batch.slots):
                    await asyncio.sleep(0.01)
            getattr(run_, end)("shutting down")
            (tmp_path / "go on").touch()
            return await batch

    results = run(main())
    assert {r.error for r in results if r.status == "cancelled"} == {"shutting down"}
    assert [r.status for r in results[1:]] == ["cancelled"] * 5
