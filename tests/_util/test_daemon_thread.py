"""Blocking functions in daemon threads."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from flowrt._util.cpu_time import CpuTime
from flowrt._util.daemon_thread import DaemonThreads, run_in_daemon_thread

Run = Callable[[Any], Any]


def test_result_comes_from_a_named_daemon_thread(run: Run) -> None:
    async def main() -> tuple[str, bool]:
        def work() -> tuple[str, bool]:
            thread = threading.current_thread()
            return thread.name, thread.daemon

        return await run_in_daemon_thread(asyncio.get_running_loop(), work, "flowrt-test")

    assert run(main()) == ("flowrt-test", True)


@pytest.mark.parametrize("error", [KeyError("a"), SystemExit(3)])
def test_exception_of_the_function_is_raised_where_it_is_awaited(error: BaseException) -> None:
    async def main() -> None:
        def work() -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            await run_in_daemon_thread(asyncio.get_running_loop(), work, "flowrt-test")
        assert caught.value is error

    asyncio.run(main())


def test_stop_iteration_does_not_leave_the_caller_waiting(run: Run) -> None:
    async def main() -> None:
        empty: Any = iter(())
        async with asyncio.timeout(30.0):
            with pytest.raises(RuntimeError, match="StopIteration"):
                await run_in_daemon_thread(asyncio.get_running_loop(), lambda: next(empty), "flowrt-test")

    run(main())


def test_cancelled_future_ignores_the_late_answer(run: Run) -> None:
    async def main() -> list[dict[str, Any]]:
        broken: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: broken.append(context))
        go_on, ended = threading.Event(), threading.Event()

        def work() -> None:
            go_on.wait(30.0)
            loop.call_soon_threadsafe(ended.set)

        answer = run_in_daemon_thread(loop, work, "flowrt-test")
        answer.cancel()
        go_on.set()
        while not ended.is_set():
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        return broken

    assert run(main()) == []


def test_closed_loop_ends_the_thread_in_silence() -> None:
    go_on, errors = threading.Event(), []
    threading.excepthook, before = errors.append, threading.excepthook
    try:

        async def start() -> None:
            run_in_daemon_thread(asyncio.get_running_loop(), lambda: go_on.wait(30.0), "flowrt-test-late")

        asyncio.run(start())
        (thread,) = [each for each in threading.enumerate() if each.name == "flowrt-test-late"]
        go_on.set()
        thread.join(30.0)
        assert not thread.is_alive()
    finally:
        threading.excepthook = before
    assert errors == []


def test_as_many_calls_run_at_once_as_were_submitted(run: Run) -> None:
    async def main() -> list[int]:
        threads, barrier = DaemonThreads("flowrt-test"), threading.Barrier(8)
        loop = asyncio.get_running_loop()
        for _ in range(3):  # later with threads that wait for work
            calls = [threads.submit(loop, barrier.wait, 30.0) for _ in range(8)]
            met = await asyncio.gather(*[call.answer for call in calls])
        threads.close()
        return sorted(met)

    assert run(main()) == list(range(8))


def test_short_calls_are_measured_even_if_they_raise(run: Run) -> None:
    def compute(x: int) -> float:
        until = time.thread_time() + 0.0002
        while time.thread_time() < until:
            pass
        return 1 / x

    async def main() -> CpuTime:
        total = CpuTime()
        threads, loop = DaemonThreads("flowrt-test", total), asyncio.get_running_loop()
        calls = [threads.submit(loop, compute, x % 2) for x in range(200)]
        answers = await asyncio.gather(*[call.answer for call in calls], return_exceptions=True)
        assert sum(isinstance(answer, ZeroDivisionError) for answer in answers) == 100
        threads.close()
        return total

    total = run(main())
    assert total.cpu_ns >= 0.04e9
    assert total.wall_ns >= 0.039e9  # of two clocks


def test_end_of_a_call_is_awaited_after_its_answer_was_cancelled(run: Run) -> None:
    async def main() -> None:
        threads, go_on = DaemonThreads("flowrt-test"), threading.Event()
        call = threads.submit(asyncio.get_running_loop(), go_on.wait, 30.0)
        call.answer.cancel()
        done, _ = await asyncio.wait([call.wait_for_end()], timeout=0.02)
        assert not done
        assert not call.ended
        go_on.set()
        await call.wait_for_end()
        assert call.ended
        await call.wait_for_end()
        threads.close()

    run(main())


def test_idle_thread_keeps_nothing_of_its_last_call_alive(run: Run) -> None:
    class Thing:
        pass

    def fail(thing: Thing) -> None:
        raise ValueError(thing)

    async def main() -> bool:
        threads, loop = DaemonThreads("flowrt-test"), asyncio.get_running_loop()
        thing = Thing()
        seen = weakref.ref(thing)
        with pytest.raises(ValueError, match="Thing"):
            await threads.submit(loop, fail, thing).answer
        await threads.submit(loop, int).answer  # so that the one thread has gone on
        del thing
        threads.close()
        return seen() is None

    assert run(main())


def test_close_does_not_wait_for_a_call_that_goes_on(run: Run) -> None:
    go_on = threading.Event()

    async def main() -> None:
        threads = DaemonThreads("flowrt-test-busy")
        threads.submit(asyncio.get_running_loop(), go_on.wait, 60.0).answer.cancel()
        threads.close()
        assert [each for each in threading.enumerate() if each.name.startswith("flowrt-test-busy")]

    run(main())
    busy = [each for each in threading.enumerate() if each.name.startswith("flowrt-test-busy")]
    go_on.set()
    for thread in busy:
        thread.join(30.0)
        assert not thread.is_alive()
