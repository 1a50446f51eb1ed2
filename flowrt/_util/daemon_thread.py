"""Work that takes a while, off the loop that serves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["off_loop"]

T = TypeVar("T")


async def off_loop(work: Callable[[], T]) -> T:
    """Run in a thread of its own: a service's own thread pool may be busy, and a pool would delay exit.

    Args:
        work: What to do there.

    Raises:
        Exception: Whatever the work raises.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def succeed(value: T) -> None:
        if not done.done():
            done.set_result(value)

    def fail(error: Exception) -> None:
        if not done.done():
            done.set_exception(error)

    def run() -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody waits
            try:
                value = work()
            except Exception as exc:  # raised again where it is awaited
                loop.call_soon_threadsafe(fail, exc)
            else:
                loop.call_soon_threadsafe(succeed, value)

    threading.Thread(target=run, name="flowrt-scrape", daemon=True).start()
    return await done
