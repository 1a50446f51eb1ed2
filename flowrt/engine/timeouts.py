"""ItemTimeouts of the items in flight, kept by one timer per batch.

All items of a batch have the same time limit, so a look over the slots finds what is over its time: nothing is set up
or torn down per item.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from flowrt._util.clock import Clock
from flowrt.model import Slot

__all__ = ["GRACE_S", "ItemTimeouts"]

GRACE_S: Final = 5.0
"""How long an item may take to end after it was cancelled, before its caller is released without it."""

_GRACE_NS: Final = int(GRACE_S * 1e9)
_STEP_S: Final = 0.010  # the timer's resolution; a time limit under a second gets a hundredth of itself


class ItemTimeouts:
    """Calls `expire` for a slot whose item is over its time, and `abandon` for one that then does not end.

    Args:
        loop: The running loop.
        clock: The batch's clock.
        slots: The batch's slots, as they are at each look.
        timeout_s: The time limit of one attempt.
        expire: Tells the item to stop.
        abandon: Gives its slot away.
    """

    __slots__ = ("_abandon", "_clock", "_expire", "_loop", "_slots", "_step_s", "_timeout_ns", "_timeout_s", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        slots: list[Slot],
        timeout_s: float,
        expire: Callable[[Slot], None],
        abandon: Callable[[Slot], None],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._slots = slots
        self._timeout_ns = max(1, round(timeout_s * 1e9))
        self._step_s = min(_STEP_S, timeout_s / 100)
        self._expire = expire
        self._abandon = abandon
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look at the slots from now on."""
        self._timer = self._loop.call_later(self._timeout_s, self._look)

    def cancel(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._clock()
        soonest = now + self._timeout_ns
        for slot in tuple(self._slots):
            item = slot.item
            if item is None or not item.started_ns or slot.keeping:
                continue
            if slot.cancelled_ns:
                due = slot.cancelled_ns + _GRACE_NS
                act = self._abandon
            else:
                due = item.started_ns + self._timeout_ns
                act = self._expire
            if due <= now:
                act(slot)
                due = now + _GRACE_NS
            soonest = min(soonest, due)
        if self._timer is not None:  # else the batch has ended meanwhile
            self._timer = self._loop.call_later(max((soonest - now) * 1e-9, self._step_s), self._look)
