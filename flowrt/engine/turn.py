"""Turns: how long a batch's items may follow each other before the loop's other work runs."""

from __future__ import annotations

import asyncio
from typing import Final

from flowrt._util.clock import Clock
from flowrt.engine.item_task import clear_cancellation

__all__ = ["LONGEST_NS", "Turn"]

LONGEST_NS: Final = 5_000_000
"""Longest time, in nanoseconds, for which items that never wait may keep the loop from its other work."""


class Turn:
    """Time since the loop last ran other work; shared by the workers of a batch.

    Args:
        loop: The running loop.
        clock: Returns monotonic nanoseconds.

    Attributes:
        started_ns: When the current turn started, by the clock.
    """

    __slots__ = ("_clock", "_loop", "_timed", "started_ns")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self.started_ns = clock()
        self._timed = False  # True if a callback is scheduled that starts the next turn

    def is_over(self, now_ns: int) -> bool:
        """Return whether a worker whose items never wait must yield to the loop now."""
        return now_ns - self.started_ns > LONGEST_NS

    def goes_on(self, started_ns: int, now_ns: int) -> bool:
        """Return whether another item may start without a turn of the loop.

        Args:
            started_ns: Start of the turn, if this is its first item.
            now_ns: The time by the batch's clock.
        """
        if not self._timed:
            self.started_ns = started_ns
            self._end_soon()
        return not self.is_over(now_ns)

    async def end(self) -> None:
        """Yield to the loop's other work."""
        if not self._timed:
            self._end_soon()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:  # from other code: the engine does not cancel a task between two items
            clear_cancellation()

    def _end_soon(self) -> None:
        self._timed = True
        self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._timed = False
        self.started_ns = self._clock()
