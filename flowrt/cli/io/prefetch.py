"""Items that a thread reads and parses ahead, as an async iterator for a batch."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

__all__ = ["CountedFeed", "Feed", "make_feed"]

_AHEAD: Final = 4  # chunks that may be parsed before the batch has taken them
_STOP_S: Final = 5.0


class Feed:
    """An async iterator over what a thread reads, a few chunks ahead and no more.

    It has no `aclose`: whoever made it closes it, and may read on after a batch that ended early.

    Args:
        chunks: Lists of items, made in the thread.
        interrupt: Ends `chunks` from another thread, also where it waits for input.

    Attributes:
        exhausted: Every item has been taken.
    """

    def __init__(self, chunks: Iterator[list[Any]], interrupt: Callable[[], None] = lambda: None) -> None:
        self.exhausted = False
        self._source = chunks
        self._interrupt = interrupt
        self._items: Iterator[Any] = iter(())
        self._arrived: deque[list[Any]] = deque()
        self._room = threading.Semaphore(_AHEAD)
        self._error: BaseException | None = None
        self._ended = False  # the thread has nothing more to give
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
            if self._arrived:
                self._items = iter(self._arrived.popleft())
                self._room.release()
            elif self._ended:
                if self._error is not None:
                    raise self._error
                self.exhausted = True
                raise StopAsyncIteration
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Wait until the thread has something new; it is started by the first who waits."""
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
                self._room.acquire()
                if self._stopped:
                    break
                self._tell(chunk, None, False)
        except BaseException as exc:  # raised again where the items are taken
            error = exc
        self._tell([], error, True)

    def _tell(self, chunk: list[Any], error: BaseException | None, ended: bool) -> None:
        if self._loop is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._arrive, chunk, error, ended)
            except RuntimeError:  # the loop was closed just now: nobody is there to tell
                self._stopped = True

    def _arrive(self, chunk: list[Any], error: BaseException | None, ended: bool) -> None:
        if chunk:
            self._arrived.append(chunk)
        self._error = error
        self._ended = ended
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def close(self) -> None:
        """End the thread; later calls do nothing."""
        self._stopped = True
        self._room.release()
        if self._thread is None:
            return
        self._interrupt()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):  # a disk that does not answer must not hold up the end
                while not self._ended:
                    await self._wait()

    @property
    def ended(self) -> bool:
        """Whether no thread reads any more."""
        return self._thread is None or self._ended


class CountedFeed(Feed):
    """A feed that knows beforehand how many items there are.

    Args:
        chunks: Lists of items, made in the thread.
        interrupt: Ends `chunks` from another thread.
        expected: How many items there are.
    """

    def __init__(self, chunks: Iterator[list[Any]], interrupt: Callable[[], None], expected: int) -> None:
        super().__init__(chunks, interrupt)
        self._expected = expected

    def __len__(self) -> int:
        return self._expected


def make_feed(chunks: Iterator[list[Any]], interrupt: Callable[[], None], expected: int | None) -> Feed:
    """A feed, with a length where it is known."""
    return Feed(chunks, interrupt) if expected is None else CountedFeed(chunks, interrupt, expected)
