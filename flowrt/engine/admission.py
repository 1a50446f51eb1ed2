"""Admission: the one place where a worker waits before it may pull an item."""

from __future__ import annotations

import asyncio
import sys
from collections import deque

from flowrt.attribution.wait import Wait

__all__ = ["Admission"]


class Admission:
    """Places for items, from the pull until somebody has taken the result.

    A finished result keeps its place until it is taken, so a slow consumer holds the batch back. A worker with a place
    at hand enters without waiting: `while admission.free or await admission.wait(): admission.free -= 1`.

    Args:
        limit: How many items may be between the source and the consumer at once; by default the workers, one item
            each, are the only bound.

    Attributes:
        free: Places left now; 0 once closed.
        consumer: Keeps account of the time for which the consumer holds workers up, if anything does.
        closed: No item is admitted any more.
    """

    __slots__ = ("_away", "_limit", "_room", "_waiters", "closed", "consumer", "free")

    def __init__(self, limit: int = sys.maxsize) -> None:
        self._limit = limit
        self.free = limit
        self._room = 0  # once closed, for results of items that will not run
        self.closed = False
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.consumer: Wait | None = None
        self._away = False

    def consumer_leaves(self) -> None:
        """The consumer has taken a result and is at work on it."""
        self._away = True
        if self._waiters and self.consumer is not None and not self.consumer.noted:
            self.consumer.look_soon(self._is_held)

    def consumer_comes(self) -> None:
        """The consumer wants the next result."""
        self._away = False
        if self.consumer is not None and self.consumer.told:
            self.consumer.over()

    def _is_held(self) -> bool:
        return self._away and bool(self._waiters)

    async def wait(self) -> bool:
        """Wait for a place; True means that one is free for the caller to take before it awaits anything else."""
        while not self.free:
            if self.closed:
                return False
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            if self._away and self.consumer is not None and not self.consumer.noted:
                self.consumer.look_soon(self._is_held)
            await waiter
        return True

    def release(self) -> None:
        """Give a place back, in the order of asking to whoever waits."""
        if self.closed:
            self._room += 1
        else:
            self.free += 1
        waiters = self._waiters
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    def resize(self, limit: int) -> None:
        """Make room for a higher limit; places that there are stay, since results may be waiting in them."""
        while self._limit < limit and not self.closed:
            self._limit += 1
            self.release()

    async def take_room(self) -> None:
        """Once closed: wait for a place for the result of an item that will not run, and take it."""
        while self._room <= 0:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        self._room -= 1

    def close(self) -> None:
        """Admit nothing more; whoever waits is told so."""
        if self.closed:
            return
        self.closed = True
        self._room = self.free
        self.free = 0
        if self.consumer is not None and self.consumer.told:
            self.consumer.over()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<Admission: {'closed' if self.closed else f'{self.free} free'}, {len(self._waiters)} waiting>"
