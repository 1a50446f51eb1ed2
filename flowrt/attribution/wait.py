"""A wait that the ledger is told of only where it outlasts a turn of the loop, so that a short one costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowrt._util.clock import Clock
from flowrt.attribution.ledger import Ledger

__all__ = ["Wait"]


class Wait:
    """Those who wait for one thing.

    Somebody who begins to wait has the ledger looked after in the loop's next turn: nearly always the wait is over by
    then, and one look a turn is enough for all.

    Args:
        ledger: The batch's ledger.
        cause: What it says of such a wait.
        clock: The batch's clock.
        loop: The running loop.

    Attributes:
        noted: It is known that somebody waits, or about to be looked.
        told: The ledger has been told so.
    """

    __slots__ = ("_cause", "_clock", "_ledger", "_loop", "noted", "told")

    def __init__(self, ledger: Ledger, cause: int, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._ledger = ledger
        self._cause = cause
        self._clock = clock
        self._loop = loop
        self.noted = False
        self.told = False

    def look_soon(self, holds: Callable[[], bool]) -> None:
        """Somebody begins to wait; call it while it is not noted.

        Args:
            holds: Whether somebody waits still.
        """
        self.noted = True
        self._loop.call_soon(self._look, holds)

    def over(self) -> None:
        """Nobody waits any more; call it where the ledger has been told."""
        self.noted = self.told = False
        self._ledger.resume(self._cause, self._clock())

    def _look(self, holds: Callable[[], bool]) -> None:
        if holds():
            self.told = True
            self._ledger.wait(self._cause, self._clock())
        else:
            self.noted = False
