"""Time limits of the items in flight, checked by one timer per batch.

All items of a batch have the same limit, so one pass over the slots finds the items that exceed it, and an item needs
no timer of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from flowrt._util.clock import Clock
from flowrt._util.validation import seconds_to_ns
from flowrt.model import Slot

__all__ = ["GRACE_S", "ItemTimeouts"]

GRACE_S: Final = 5.0
"""Grace period in seconds: how long a cancelled item may take to end before it is abandoned."""

_GRACE_NS: Final = int(GRACE_S * 1e9)
_STEP_S: Final = 0.010  # resolution; below a limit of one second, a hundredth of the limit


class ItemTimeouts:
    """Timer that cancels items over their time limit, and abandons them if they outlast the grace period.

    Args:
        loop: The running loop.
        clock: The batch's clock.
        slots: The batch's slots; read at each check.
        timeout_s: Time limit of one attempt, in seconds.
        expire: Cancels the item in a slot.
        abandon: Finishes the item in a slot without waiting for its task.
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
        self._timeout_ns = max(1, seconds_to_ns(timeout_s))
        self._step_s = min(_STEP_S, timeout_s / 100)
        self._expire = expire
        self._abandon = abandon
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start checking."""
        self._timer = self._loop.call_later(self._timeout_s, self._check)

    def cancel(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        now = self._clock()
        soonest = now + self._timeout_ns
        for slot in tuple(self._slots):
            item = slot.item
            if item is None or not item.started_ns or slot.journaling:
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
        if self._timer is not None:  # None: the batch has ended meanwhile
            self._timer = self._loop.call_later(max((soonest - now) * 1e-9, self._step_s), self._check)
