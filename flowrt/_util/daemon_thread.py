"""Blocking functions in daemon threads, awaited on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["run_in_daemon_thread"]

T = TypeVar("T")


def run_in_daemon_thread(loop: asyncio.AbstractEventLoop, function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run a blocking function in a daemon thread of its own.

    Unlike a thread of the loop's default executor, it needs no free place in a shared pool and does not delay the
    exit of the process.

    Args:
        loop: The loop that awaits the future.
        function: The function; it runs to its end even if the future is cancelled.
        name: Name of the thread.

    Returns:
        A future of the function's result or exception. It never ends if the loop is closed first.
    """
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if answer.done():  # it was cancelled
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def run() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = function()
        except StopIteration as exc:  # a future refuses it, since no coroutine could raise it
            error = RuntimeError("the function raised StopIteration")
            error.__cause__ = exc
        except BaseException as exc:  # raised again where the future is awaited
            error = exc
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return answer
