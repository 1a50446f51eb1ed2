"""Waits that reach the ledger only if they outlast one turn of the loop, so that short waits cost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowrt._util.clock import Clock
from flowrt.attribution.ledger import Ledger

__all__ = ["Wait"]


class Wait:
    """The waiters for one resource, as one wait in the ledger.

    The check runs in the loop's next turn. Nearly every wait is over by then, and one check per turn serves all
    waiters.

    Args:
        ledger: The batch's ledger.
        cause: The ledger's cause for this wait.
        clock: The batch's clock.
        loop: The running loop.

    Attributes:
        scheduled: True while a check is scheduled or the ledger has recorded the wait.
        recorded: True while the ledger has recorded the wait.
    """

    __slots__ = ("_cause", "_clock", "_ledger", "_loop", "recorded", "scheduled")

    def __init__(self, ledger: Ledger, cause: int, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._ledger = ledger
        self._cause = cause
        self._clock = clock
        self._loop = loop
        self.scheduled = False
        self.recorded = False

    def look_soon(self, holds: Callable[[], bool]) -> None:
        """Schedule the check, as a waiter has just arrived. Call it only while `scheduled` is False.

        Args:
            holds: Returns True while there is a waiter.
        """
        self.scheduled = True
        self._loop.call_soon(self._look, holds)

    def over(self) -> None:
        """End the wait. Call it only while `recorded` is True."""
        self.scheduled = self.recorded = False
        self._ledger.resume(self._cause, self._clock())

    def _look(self, holds: Callable[[], bool]) -> None:
        if holds():
            self.recorded = True
            self._ledger.wait(self._cause, self._clock())
        else:
            self.scheduled = False
