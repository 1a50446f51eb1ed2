"""Blocking functions in daemon threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flowrt._util.daemon_thread import run_in_daemon_thread

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
