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
        timed: True if a callback is scheduled that starts the next turn.
    """

    __slots__ = ("_clock", "_loop", "started_ns", "timed")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self.started_ns = clock()
        self.timed = False

    def is_over(self, now_ns: int) -> bool:
        """Return whether a worker whose items never wait must yield to the loop now."""
        return now_ns - self.started_ns > LONGEST_NS

    def begin(self, started_ns: int) -> None:
        """Begin a turn that is not timed yet. The loop ends it.

        Args:
            started_ns: When the turn started, by the clock.
        """
        self.started_ns = started_ns
        self._end_soon()

    async def end(self) -> None:
        """Yield to the loop's other work."""
        if not self.timed:
            self._end_soon()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:  # from other code: the engine does not cancel a task between two items
            clear_cancellation()

    def _end_soon(self) -> None:
        self.timed = True
        self._loop.call_soon(self._start)

    def _start(self) -> None:
        self.timed = False
        self.started_ns = self._clock()
