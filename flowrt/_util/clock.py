"""Clock of a batch: monotonic nanoseconds, virtual on a loop of virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter_ns
from types import FunctionType

__all__ = ["Clock", "clock_of", "is_virtual"]

Clock = Callable[[], int]


def clock_of(loop: asyncio.AbstractEventLoop) -> Clock:
    """Choose the clock that times the work of a loop, in nanoseconds.

    `perf_counter_ns` reads the same monotonic clock as asyncio's and uvloop's own time, which is coarse or cached, and
    costs less. A loop whose class defines its own `time`, such as a test's virtual-time loop, is read instead, so that
    a simulated day takes a millisecond.

    Args:
        loop: The running loop.
    """
    if is_virtual(loop):
        return lambda: round(loop.time() * 1e9) + 1  # a virtual time may start at 0, which means "not yet" in records
    return perf_counter_ns


def is_virtual(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether a loop has virtual time, in which work outside the loop takes no time.

    Args:
        loop: The running loop.
    """
    return _has_virtual_time(type(loop))  # type: ignore[arg-type]  # a class is hashable, which mypy does not see


@lru_cache(maxsize=64)  # a process has few classes of loops, and asks for every batch
def _has_virtual_time(kind: type[asyncio.AbstractEventLoop]) -> bool:
    time = kind.time
    return isinstance(time, FunctionType) and time is not asyncio.BaseEventLoop.time
