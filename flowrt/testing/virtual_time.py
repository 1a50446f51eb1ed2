"""Virtual time: a test that sleeps for a day takes a millisecond."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from flowrt.whatif.virtual_clock_loop import VirtualLoop

__all__ = ["run_virtual"]

T = TypeVar("T")


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, which starts at 0, and assert that it leaves no task behind.

    Args:
        main: Awaits only timers and other tasks. Threads and sockets have no virtual time.

    Raises:
        RuntimeError: Every task waits and no timer is set: a deadlock.
        AssertionError: A task was left running.

    Example:
        >>> import asyncio
        >>> async def nap():
        ...     await asyncio.sleep(86_400)
        ...     return asyncio.get_running_loop().time()
        >>> run_virtual(nap())
        86400.0
    """

    async def guarded() -> T:
        before = asyncio.all_tasks()
        result = await main
        for _ in range(5):  # callbacks of what has just ended
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - before
        assert not left, f"tasks left running: {left}"  # noqa: S101  # a helper for tests
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(guarded())
