"""Admission: the permits that a worker waits for before it pulls an item."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Final

from flowrt.attribution.wait import Wait
from flowrt.engine.waiters import Waiters

__all__ = ["Admission"]

# Shared by all batches in which nothing waits, to save objects; replaced before anything is added.
_NO_WAITERS: Final = Waiters()
_NO_REST: Final[deque[asyncio.Future[None]]] = deque()


class Admission:
    """Permits for items, held from the pull until the consumer has taken the result.

    A finished result keeps its permit until the consumer takes it, so a slow consumer slows the batch down. A worker
    takes a permit by `while admission.free or await admission.wait(): admission.free -= 1`, without a call if one is
    free. Without a limit `free` is `sys.maxsize` and is not counted down, since arithmetic with so large a number is
    slow.

    Args:
        limit: Most items between the source and the consumer; None if the number of slots is the only bound.
        consumer: Charges the ledger for the time in which the consumer holds workers back; None without a ledger.

    Attributes:
        free: Number of permits left; 0 while paused and once closed.
        limited: True if each item takes a permit.
        paused: True during a pause of the batch.
        closed: True once no further item is admitted.
    """

    __slots__ = (
        "_away",
        "_capacity",
        "_consumer",
        "_kept",
        "_limit",
        "_rest",
        "_waiters",
        "closed",
        "free",
        "limited",
        "paused",
    )

    def __init__(self, limit: int | None = None, consumer: Wait | None = None) -> None:
        self._limit = self.free = sys.maxsize if limit is None else limit
        self.limited = limit is not None
        self._consumer = consumer
        self.paused = False
        self.closed = False
        self._kept = 0  # free permits that a pause withholds
        self._waiters = _NO_WAITERS
        self._away = False  # the consumer works on a result
        self._capacity = 0  # once closed: permits for results of items that are not run
        self._rest = _NO_REST

    def consumer_left(self) -> None:
        """Note that the consumer has taken a result and works on it."""
        self._away = True
        if len(self._waiters) and self._consumer is not None and not self._consumer.scheduled:
            self._consumer.look_soon(self._is_held_back)

    def consumer_came(self) -> None:
        """Note that the consumer wants the next result."""
        self._away = False
        if self._consumer is not None and self._consumer.recorded:
            self._consumer.over()

    def _is_held_back(self) -> bool:
        return self._away and len(self._waiters) > 0 and not self.paused

    async def wait(self) -> bool:
        """Wait for a permit.

        Returns:
            True if one is free, for the caller to take before it awaits anything else; False once closed.
        """
        while not self.free:
            if self.closed:
                return False
            if self._away and not self.paused and self._consumer is not None and not self._consumer.scheduled:
                self._consumer.look_soon(self._is_held_back)
            if self._waiters is _NO_WAITERS:
                self._waiters = Waiters()
            await self._waiters.wait()
        return True

    def release(self) -> None:
        """Return a permit. The worker that has waited longest gets it."""
        if self.closed:
            self._capacity += 1
            while self._rest:
                waiter = self._rest.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    break
        elif self.paused:
            self._kept += 1
        else:
            if self.limited:
                self.free += 1
            if self._waiters.futures:
                self._waiters.wake_one()

    def resize(self, limit: int) -> None:
        """Add permits for a higher limit. A lower limit removes none, since results may hold them.

        Args:
            limit: The new concurrency limit.
        """
        more = limit - self._limit
        if more > 0 and not self.closed:
            self._limit = limit
            for _ in range(more):
                self.release()

    async def take_capacity(self) -> None:
        """Wait, after `close`, until the consumer has capacity for the result of an item that is not run."""
        while self._capacity <= 0:
            waiter = asyncio.get_running_loop().create_future()
            if self._rest is _NO_REST:
                self._rest = deque()
            self._rest.append(waiter)
            await waiter
        self._capacity -= 1

    def pause(self) -> None:
        """Admit no item until `resume`; permits that are released meanwhile are withheld."""
        if not self.closed and not self.paused:
            self.paused = True
            self._kept, self.free = self.free, 0

    def resume(self) -> None:
        """Admit items again."""
        if self.paused:
            self.paused = False
            self.free, self._kept = self._kept, 0
            self._waiters.wake_all()

    def close(self) -> None:
        """Admit no further item, and wake the waiting workers, which end."""
        if self.closed:
            return
        self.closed = True
        self._capacity = self.free + self._kept
        self.free = self._kept = 0
        self.paused = False
        if self._consumer is not None and self._consumer.recorded:
            self._consumer.over()
        self._waiters.wake_all()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"paused, {self._kept} free" if self.paused else f"{self.free} free"
        return f"<Admission: {state}, {len(self._waiters)} waiting>"
