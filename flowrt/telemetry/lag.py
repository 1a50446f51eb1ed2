"""Event-loop lag: how late the loop runs a timer while batches are under way."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Final

__all__ = ["Heartbeat", "heartbeat_of"]

_BEAT_S: Final = 0.1

_heartbeats: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Heartbeat] = weakref.WeakKeyDictionary()


class Heartbeat:
    """Ten beats a second on one loop for as long as somebody listens, each reporting how late it came.

    A loop whose time is virtual has no lag and gets no beats.

    Args:
        loop: The loop to measure.
    """

    __slots__ = ("__weakref__", "_due_ns", "_listeners", "_loop", "_report", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._listeners = 0
        self._report: Callable[[int], object] = _ignore
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0

    def acquire(self, report: Callable[[int], object]) -> None:
        """Start beating, or go on.

        Args:
            report: Called with each beat's lateness, in nanoseconds.
        """
        self._listeners += 1
        self._report = report
        loop = self._loop()
        if self._listeners == 1 and loop is not None and abs(loop.time() - time.monotonic()) < 1.0:
            self._arm(loop)

    def release(self) -> None:
        """Stop beating when nobody else listens."""
        self._listeners -= 1
        if self._listeners == 0 and self._timer is not None:
            late_ns = time.perf_counter_ns() - self._due_ns
            if late_ns > 0:  # a batch that never let the loop turn: this beat would have come that late
                self._report(late_ns)
            self._timer.cancel()
            self._timer = None

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_ns = time.perf_counter_ns() + int(_BEAT_S * 1e9)
        self._timer = loop.call_later(_BEAT_S, self._beat)

    def _beat(self) -> None:
        self._report(max(0, time.perf_counter_ns() - self._due_ns))
        loop = self._loop()
        if loop is not None:
            self._arm(loop)


def heartbeat_of(loop: asyncio.AbstractEventLoop) -> Heartbeat:
    """The loop's one heartbeat."""
    heartbeat = _heartbeats.get(loop)
    if heartbeat is None:
        heartbeat = _heartbeats[loop] = Heartbeat(loop)
    return heartbeat


def _ignore(_: int) -> None:
    """Nobody listens yet."""
