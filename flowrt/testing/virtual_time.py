"""Virtual time: a test that sleeps for a day takes a millisecond."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from flowrt.whatif.virtual_clock_loop import VirtualLoop

__all__ = ["run_on", "run_virtual"]

T = TypeVar("T")


def run_virtual(main: Coroutine[Any, Any, T], *, patience_s: float = 30.0) -> T:
    """Run a coroutine in virtual time, which starts at 0, and assert that it leaves no task behind.

    Args:
        main: Awaits timers and other tasks. Threads and sockets have no virtual time: they are waited for only where no
            timer is set, since the clock jumps to the next one otherwise.
        patience_s: How long to wait for them, in real seconds.

    Raises:
        RuntimeError: Every task waits, no timer is set, and nothing comes from outside: a deadlock.
        AssertionError: A task was left running.

    Example:
        >>> import asyncio
        >>> async def nap():
        ...     await asyncio.sleep(86_400)
        ...     return asyncio.get_running_loop().time()
        >>> run_virtual(nap())
        86400.0
    """
    return run_on(partial(VirtualLoop, patience_s), main)


def run_on(loop_factory: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new event loop, and assert that it leaves no task behind.

    Args:
        loop_factory: Makes the loop: `asyncio.SelectorEventLoop` or `uvloop.new_event_loop`, for instance.
        main: The coroutine.

    Raises:
        AssertionError: A task was left running.
    """

    async def guarded() -> T:
        before = asyncio.all_tasks()
        try:
            return await main
        finally:
            for _ in range(5):  # callbacks of what has just ended
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - before
            assert not left, f"tasks left running: {left}"  # noqa: S101  # a helper for tests

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(guarded())
