"""Results as they finish, handed to one consumer who sets the pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from flowrt.engine.worker import Deliver, Scheduler
from flowrt.model import BatchRecord, BatchResult

__all__ = ["ResultStream"]


class ResultStream(AsyncIterator[BatchResult]):
    """An async iterator over a batch's results in the order in which they finish.

    The batch starts at the first `anext` and admits no more than its consumer takes. Leaving an `async for` early lets
    go of the stream, which cancels what is in flight; `async with` or `aclose()` also waits until it has ended.

    Args:
        start: Makes a scheduler that delivers to the given function.
    """

    __slots__ = ("__weakref__", "_closed", "_outlet", "_scheduler", "_start", "_starting")

    def __init__(self, start: Callable[[Deliver], Awaitable[Scheduler]]) -> None:
        self._start = start
        self._outlet = _Outlet()
        self._scheduler: Scheduler | None = None
        self._closed = False
        self._starting = False

    @property
    def batch(self) -> BatchRecord | None:
        """What is known of the batch; None before the first result is asked for."""
        return None if self._scheduler is None else self._scheduler.batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchResult:
        outlet, scheduler = self._outlet, self._scheduler
        if self._closed:
            raise StopAsyncIteration
        if scheduler is None:
            scheduler = await self._begin()
        admission = scheduler.admission
        if admission.consumer is not None:
            admission.consumer_comes()
        while not outlet.finished:
            if scheduler.over:
                self._closed = True
                await scheduler.join()
                raise StopAsyncIteration
            if outlet.waiter is not None:
                raise RuntimeError(_TWO_CONSUMERS)
            outlet.waiter = scheduler.loop.create_future()
            await scheduler.changed(outlet.waiter)
            outlet.waiter = None
            if scheduler.interrupted_by is not None:
                self._closed = True
                await scheduler.join()
        admission.release()
        if admission.consumer is not None:
            admission.consumer_leaves()
        return outlet.finished.popleft()

    async def _begin(self) -> Scheduler:
        if self._starting:
            raise RuntimeError(_TWO_CONSUMERS)
        self._starting = True
        try:
            scheduler = self._scheduler = await self._start(self._outlet.put)
        finally:
            self._starting = False
        scheduler.start()
        if self._closed:  # meanwhile, while the journal was being read
            scheduler.stop(_LEFT)
        return scheduler

    async def aclose(self) -> None:
        """Cancel what is in flight and wait until it has ended; later calls do nothing."""
        self._closed = True
        scheduler = self._scheduler
        if scheduler is None:
            return
        scheduler.stop(_LEFT)
        while not scheduler.over:
            await scheduler.changed()
        self._outlet.finished.clear()
        if scheduler.interrupted_by is not None:
            raise asyncio.CancelledError(*scheduler.interrupted_by.args)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        scheduler = self._scheduler
        if scheduler is not None and not scheduler.over and not scheduler.loop.is_closed():
            scheduler.loop.call_soon_threadsafe(scheduler.stop, _LEFT)

    def __repr__(self) -> str:
        return f"<ResultStream of {self._scheduler or 'a batch not started'}>"


_LEFT = "the consumer left"
_TWO_CONSUMERS = "a result stream has one consumer: two tasks are waiting for its next result"


class _Outlet:
    """What the scheduler fills and the stream empties; the scheduler holds no reference to the stream itself."""

    __slots__ = ("finished", "waiter")

    def __init__(self) -> None:
        self.finished: deque[BatchResult] = deque()
        self.waiter: asyncio.Future[None] | None = None

    def put(self, result: BatchResult) -> None:
        self.finished.append(result)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
