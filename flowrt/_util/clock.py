"""The clock that a batch reads: monotonic nanoseconds, virtual where the loop's time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns
from types import FunctionType

__all__ = ["Clock", "clock_of", "is_virtual"]

Clock = Callable[[], int]


def clock_of(loop: asyncio.AbstractEventLoop) -> Clock:
    """The clock to time a loop's work with, in nanoseconds.

    asyncio's and uvloop's own time is the system's monotonic clock, coarse or cached; `perf_counter_ns` is the same
    clock and cheaper. A loop whose class brings its own `time` (a virtual-time loop of a test, say) is asked instead,
    so that a day passes there in a millisecond.

    Args:
        loop: The running loop.
    """
    if is_virtual(loop):
        return lambda: round(loop.time() * 1e9) + 1  # a virtual time may start at 0, which records keep for "not yet"
    return perf_counter_ns


def is_virtual(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop has a time of its own: there, what happens outside of the loop happens at no time.

    Args:
        loop: The running loop.
    """
    time = type(loop).time
    return isinstance(time, FunctionType) and time is not asyncio.BaseEventLoop.time
