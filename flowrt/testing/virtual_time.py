"""Virtual time: a test that sleeps for a day takes a millisecond."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from flowrt.telemetry.live.coroutine_stack import FLOWRT, places_of
from flowrt.whatif.virtual_clock_loop import StandstillError, VirtualLoop

__all__ = ["run_on", "run_virtual"]

T = TypeVar("T")

_ASYNCIO: Final = f"{Path(asyncio.__file__).parent}{os.sep}"
_MOST_PLACES: Final = 10  # that the error of a deadlock names


def run_virtual(main: Coroutine[Any, Any, T], *, patience_s: float = 30.0) -> T:
    """Run a coroutine in virtual time, which starts at 0, and assert that it leaves no task behind.

    Args:
        main: Awaits timers and other tasks. Threads and sockets have no virtual time: they are waited for only where no
            timer is set, since the clock jumps to the next one otherwise.
        patience_s: How long to wait for them, in real seconds.

    Raises:
        RuntimeError: Every task waits, no timer is set, and nothing comes from outside: a deadlock. Names the lines at
            which the tasks wait.
        AssertionError: A task was left running.
        TypeError: `main` is not a coroutine.

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
        TypeError: `main` is not a coroutine.
    """
    if not inspect.isawaitable(main):
        raise TypeError(f"a test's loop runs a coroutine: main(), not {main!r}")

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
        try:
            return runner.run(guarded())
        except StandstillError as error:
            waiting = Counter(map(_place, asyncio.all_tasks(runner.get_loop()))).most_common(_MOST_PLACES)
            lines = (f"\n  {count} at {place}" for place, count in waiting)
            raise RuntimeError(f"{error}; tasks that wait:{''.join(lines)}") from None


def _place(task: asyncio.Task[Any]) -> str:
    """Return the innermost line outside asyncio and flowrt at which a task waits, or the task's name."""
    for place in reversed(places_of(task)):
        if not place.file.startswith((FLOWRT, _ASYNCIO)):
            return f"{place.file}:{place.line} in {place.function}"
    return f"task {task.get_name()!r}"
