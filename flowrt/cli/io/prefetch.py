"""Prefetch: a thread reads and parses items ahead of the batch."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

__all__ = ["Prefetcher", "SizedPrefetcher", "prefetch"]

_AHEAD: Final = 4  # parsed chunks that may wait for the batch
_STOP_S: Final = 5.0


class Prefetcher:
    """Async iterator over items that a thread reads at most a few chunks ahead.

    It has no `aclose`, so a batch that ends early does not close it, and its owner can continue to read.

    Args:
        chunks: Lists of items, iterated in the thread.
        interrupt: Ends `chunks` from another thread, even while it waits for input.

    Attributes:
        exhausted: True when the consumer has received every item.
    """

    def __init__(self, chunks: Iterator[list[Any]], interrupt: Callable[[], None] = lambda: None) -> None:
        self.exhausted = False
        self._source = chunks
        self._interrupt = interrupt
        self._items: Iterator[Any] = iter(())
        self._chunks: deque[list[Any]] = deque()
        self._capacity = threading.Semaphore(_AHEAD)
        self._error: BaseException | None = None
        self._ended = False  # the thread has read everything
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            for item in self._items:
                return item
            if self._chunks:
                self._items = iter(self._chunks.popleft())
                self._capacity.release()
            elif self._ended:
                if self._error is not None:
                    raise self._error
                self.exhausted = True
                raise StopAsyncIteration
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Wait for the next chunk. The first call starts the thread."""
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._loop = loop
            self._thread = threading.Thread(target=self._read, name="flowrt-reader", daemon=True)
            self._thread.start()
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for chunk in self._source:
                self._capacity.acquire()
                if self._stopped:
                    break
                self._post(chunk, None, False)
        except BaseException as exc:  # `__anext__` raises it
            error = exc
        self._post([], error, True)

    def _post(self, chunk: list[Any], error: BaseException | None, ended: bool) -> None:
        if self._loop is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._receive, chunk, error, ended)
            except RuntimeError:  # the loop was closed in between
                self._stopped = True

    def _receive(self, chunk: list[Any], error: BaseException | None, ended: bool) -> None:
        if chunk:
            self._chunks.append(chunk)
        self._error = error
        self._ended = ended
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def close(self) -> None:
        """End the thread. Calling it again does nothing."""
        self._stopped = True
        self._capacity.release()
        if self._thread is None:
            return
        self._interrupt()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):  # a disk that does not answer must not block the exit
                while not self._ended:
                    await self._wait()

    @property
    def ended(self) -> bool:
        """True if no thread is reading."""
        return self._thread is None or self._ended


class SizedPrefetcher(Prefetcher):
    """Prefetcher with a known number of items.

    Args:
        chunks: Lists of items, iterated in the thread.
        interrupt: Ends `chunks` from another thread.
        expected: Number of items.
    """

    def __init__(self, chunks: Iterator[list[Any]], interrupt: Callable[[], None], expected: int) -> None:
        super().__init__(chunks, interrupt)
        self._expected = expected

    def __len__(self) -> int:
        return self._expected


def prefetch(chunks: Iterator[list[Any]], interrupt: Callable[[], None], expected: int | None) -> Prefetcher:
    """Create a prefetcher, with a length if `expected` is not None."""
    return Prefetcher(chunks, interrupt) if expected is None else SizedPrefetcher(chunks, interrupt, expected)
