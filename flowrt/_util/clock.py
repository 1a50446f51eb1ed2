"""Clock of a batch: monotonic nanoseconds, virtual on a loop of virtual time; and timers that only look on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter_ns
from types import FunctionType
from typing import Any, TypeVar

__all__ = ["Clock", "clock_of", "is_virtual", "only_observes", "watches"]

Clock = Callable[[], int]

_F = TypeVar("_F", bound=Callable[..., Any])


def watches(callback: _F) -> _F:
    """Mark the callback of a timer that reports on a batch, and sets itself again as long as the batch is active.

    Virtual time does not follow such a timer: no item waits for it, and it would be set for ever in a deadlock.

    Args:
        callback: A method or function.
    """
    callback.flowrt_watches = True  # type: ignore[attr-defined]
    return callback


def only_observes(handle: asyncio.TimerHandle) -> bool:
    """Return whether a timer was cancelled, or has a callback that `watches`.

    Args:
        handle: The timer's handle.
    """
    return handle.cancelled() or hasattr(handle._callback, "flowrt_watches")  # type: ignore[attr-defined]  # noqa: SLF001


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
