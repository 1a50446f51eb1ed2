"""Threads executor: slots, contexts, timeouts and abandonment."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from flowrt import BaseNode, BatchProcessor, FunctionNode, NodeContext, NodeResult, WorkflowContext
from flowrt._util.daemon_thread import DaemonThreads
from flowrt.engine.batch_run import BatchRun, active_batches
from flowrt.executors import ThreadsExecutor

Run = Callable[[Any], Any]

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


def processor(node: Any, c: int = 4, **settings: Any) -> BatchProcessor:
    return BatchProcessor(node, c, telemetry=False, **settings)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("asyncio_"):
            thread.join(60)
            assert not thread.is_alive(), f"left behind: {thread}"


class Counted:
    def __init__(self, seconds: float, meet: Callable[[], object] | None = None) -> None:
        self.take_time = meet or partial(time.sleep, seconds)
        self.lock = threading.Lock()
        self.running = self.most = 0
        self.threads: set[int] = set()

    def __call__(self, x: int) -> int:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.threads.add(threading.get_ident())
        self.take_time()
        with self.lock:
            self.running -= 1
        return x * 2


def test_plain_function_runs_in_as_many_threads_as_slots(run: Run) -> None:
    counted = Counted(0, partial(threading.Barrier(12).wait, 60))  # five times twelve meet
    results = run(processor(counted, 12).batch(range(60)))
    assert [r.output for r in results] == [x * 2 for x in range(60)]
    assert counted.most == 12
    assert threading.get_ident() not in counted.threads


def test_plain_execute_of_a_class_runs_in_a_thread(run: Run) -> None:
    class Blocking(BaseNode):
        def __init__(self) -> None:
            super().__init__("blocking")

        def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:  # type: ignore[override]
            assert threading.current_thread() is not threading.main_thread()
            return NodeResult(True, node_context.input_data + 1)

    assert [r.output for r in run(processor(Blocking()).batch(range(5)))] == [1, 2, 3, 4, 5]


def test_awaitable_from_a_plain_function_is_awaited_on_the_loop(run: Run) -> None:
    async def later(x: int) -> int:
        assert threading.current_thread() is threading.main_thread()
        return x

    def node(x: int) -> Any:
        return later(x)

    assert [r.output for r in run(processor(node).batch(range(3)))] == [0, 1, 2]


def test_thread_sees_the_callers_context_and_does_not_change_it(run: Run) -> None:
    def node(_: int) -> str:
        seen = var.get()
        var.set("changed in a thread")
        return seen

    async def main() -> None:
        var.set("callers own")
        assert {r.output for r in await processor(node).batch(range(9))} == {"callers own"}

    run(main())


def test_timed_out_thread_keeps_its_slot_until_it_ends(run: Run) -> None:
    runs: list[BatchRun] = []

    def outlast_the_time_limits() -> None:
        until = time.monotonic() + 60
        while not all(slot.cancelled_ns for slot in runs[0].batch.slots) and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(0.1)  # here a slot without its thread would start another

    async def main() -> Any:
        batch = asyncio.create_task(processor(counted, 2, item_timeout=0.05).batch(range(6)))
        while not runs:
            await asyncio.sleep(0)
            runs.extend(active_batches(asyncio.get_running_loop()))
        return await batch

    counted = Counted(0, outlast_the_time_limits)
    results = run(main())
    assert {r.status for r in results} == {"timed_out"}
    assert counted.most == 2


def test_loop_is_not_blocked_while_threads_work(run: Run) -> None:
    turned = threading.Event()

    async def main() -> Any:
        batch = asyncio.create_task(processor(lambda _: turned.wait(60)).batch(range(8)))
        for _ in range(5):
            await asyncio.sleep(0.001)
        turned.set()
        return await batch

    assert [r.output for r in run(main())] == [True] * 8


def test_async_nodes_run_on_their_own_loops_in_threads(run: Run) -> None:
    async def node(x: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        await asyncio.sleep(0.001)
        return x

    results = run(processor(node, executor="threads").batch(range(10)))
    assert [r.output for r in results] == list(range(10))


def test_async_node_in_a_thread_is_cancelled_on_timeout(run: Run) -> None:
    started, cleaned = [], []

    async def node(x: int) -> None:
        started.append(x)
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(x)

    results = run(processor(node, 2, executor="threads", item_timeout=0.5).batch(range(4)))
    assert {r.status for r in results} == {"timed_out"}
    assert started, "no thread started within the timeout"
    assert sorted(cleaned) == sorted(started)


def test_fail_fast_waits_for_running_threads(run: Run) -> None:
    counted = Counted(0.03)

    def node(x: int) -> int:
        if x == 1:
            raise ValueError("one")
        return counted(x)

    with pytest.raises(ValueError, match="one"):
        run(processor(node, 3, continue_on_error=False).batch(range(50)))
    assert counted.running == 0


@pytest.mark.parametrize("limits", [(0.2, 0.4), (0.4, 0.2)], ids=["the item's first", "the batch's first"])
@pytest.mark.parametrize("own_loop", [False, True], ids=["plain", "async"])
def test_loop_is_free_while_a_thread_outlasts_both_timeouts(
    limits: tuple[float, float], own_loop: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, release = threading.Event(), threading.Event()
    released = []

    def submit(*args: Any) -> Any:
        submitted = submit_to_thread(*args)
        began.wait(60)  # a busy machine might start the thread after the time limits
        return submitted

    submit_to_thread = DaemonThreads.submit
    monkeypatch.setattr(DaemonThreads, "submit", submit)

    def node(_: int) -> None:
        began.set()
        released.append(release.wait(10))

    async def main() -> Any:
        async def blocking(x: int) -> None:
            node(x)

        asyncio.get_running_loop().call_later(0.8, release.set)
        its = {"item_timeout": limits[0], "batch_timeout": limits[1], "executor": "threads"}
        return await processor(blocking if own_loop else node, 1, **its).batch([0])

    (result,) = run(main())
    assert released == [True], "the loop was held up until the thread had ended"
    assert result.status == "timed_out"


def test_attempt_cancelled_twice_ends_with_its_thread_or_abandonment(run: Run) -> None:
    release = threading.Event()

    async def main() -> None:
        session = ThreadsExecutor().open(FunctionNode(lambda _: release.wait(10)), 1)

        async def attempt() -> None:
            await session.invoke(NodeContext("n", "function", 0, index=0, attempt=1, batch_id="b"), WorkflowContext())

        task = asyncio.create_task(attempt())
        for _ in range(3):
            await asyncio.sleep(0.005)
            task.cancel()
        await asyncio.sleep(0.005)
        assert not task.done()
        session.abandon_one()
        task.cancel()  # as a closing loop would
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not release.is_set()
        session.close()
        release.set()

    run(main())


def test_thread_that_never_ends_is_abandoned_and_replaced(run_virtual: Run) -> None:
    release = threading.Event()

    def node(x: int) -> int:
        if x == 0:
            release.wait(30)
        return x

    async def time_stands_still(until: Callable[[], bool]) -> None:
        while not until():  # a loop that has something to do does not advance the clock: threads take real time
            time.sleep(0.001)
            await asyncio.sleep(0)

    async def main() -> Any:
        results: list[Any] = []

        async def read() -> None:
            async for result in processor(node, 1, item_timeout=1).batch_as_completed(range(3)):
                results.append(result)
                if len(results) == 1:  # until here the clock ran: the first item timed out, and its grace is over
                    stands.set()

        stands = asyncio.Event()
        reader = asyncio.create_task(read())
        await stands.wait()
        await time_stands_still(reader.done)
        await reader
        release.set()
        await time_stands_still(lambda: len(asyncio.all_tasks()) == 1)
        return results

    results = run_virtual(main())
    assert [r.status for r in results] == ["timed_out", "ok", "ok"]
    assert "did not stop within 5 s" in results[0].error


ENDLESS = {
    "plain asyncio": "asyncio.run(main())",
    "plain asyncio, in the background": "asyncio.run(background())",
    "flowrt.run": "flowrt.run(main(), log_level='ERROR')",
    "flowrt.run, in the background": "flowrt.run(background(), log_level='ERROR')",
    "Runtime": "asyncio.run(runtime())",
    "race": "asyncio.run(race())",
}


@pytest.mark.parametrize("way", ENDLESS.values(), ids=ENDLESS)
def test_process_exits_though_a_thread_never_ends(way: str) -> None:
    code = f"""
import asyncio, time, flowrt
from flowrt.engine import cancellation, timeouts
from flowrt.nodes import race as racing
timeouts.GRACE_S = cancellation.GRACE_S = racing.GRACE_S = 0.1  # of 5 s

def node(x):
    time.sleep(3600 if x == 1 else 0)
    return x

async def main():
    results = await flowrt.BatchProcessor(node, 2, item_timeout=0.1).batch(range(4))
    print(results[1].status, flush=True)

async def background():
    asyncio.create_task(flowrt.BatchProcessor(node, 2).batch(range(4)))
    await asyncio.sleep(0.2)
    print("timed_out", flush=True)

async def runtime():
    async with flowrt.Runtime(log_level="ERROR"):
        await main()

async def race():
    async def quick(x):
        await asyncio.sleep(0.05)
    result = await flowrt.race([node, quick], 1)
    assert result.metadata["still_running"] == ["node"], result
    print("timed_out", flush=True)

{way}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "timed_out"), done.stderr
    assert "never retrieved" not in done.stderr
    assert "was destroyed" not in done.stderr


def test_threads_are_reused_and_end_with_the_batch(run: Run) -> None:
    names: set[str] = set()

    def node(_: int) -> None:
        names.add(threading.current_thread().name)
        time.sleep(0.001)

    run(processor(node, 4).batch(range(200)))
    assert 1 <= len(names) <= 4
    assert not names & {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("executor", ["process", 5, "Threads"])
def test_unknown_executor_is_refused_by_name(executor: Any) -> None:
    with pytest.raises(ValueError, match="executor must be 'loop', 'threads'"):
        processor(asyncio.sleep, executor=executor)
