"""Opens the cache of one batch without blocking the loop."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from flowrt._util.clock import is_virtual
from flowrt._util.daemon_thread import DaemonThreads
from flowrt.engine.cache_store import CacheStore, text_of
from flowrt.engine.timeouts import GRACE_S
from flowrt.model.node import BaseNode
from flowrt.policies.cache import Cache

if TYPE_CHECKING:
    from flowrt.policies.cache_file import CacheFile

__all__ = ["open_cache"]

_log: Final = logging.getLogger("flowrt.cache")


async def open_cache(cache: Cache, node: BaseNode) -> CacheStore:
    """Open a cache for one batch. A cache whose disk fails is not used, with a warning in the log.

    Args:
        cache: The cache's settings.
        node: The batch's node, which is part of each key.

    Raises:
        ValueError: The file is not a cache of flowrt.
    """
    if cache.path is None:
        return _MemoryStore(cache, node)
    store = _FileStore(cache, node)
    await store.open()
    return store


class _MemoryStore:
    """Store of outputs in memory, which all batches with the same `Cache` share."""

    def __init__(self, cache: Cache, node: BaseNode) -> None:
        self._cache = cache
        self._prefix = f"{node.node_id}\0{cache.version}\0"

    def key_of(self, input_data: Any) -> bytes | None:
        text = text_of(input_data, sort_keys=True)
        if text is None:
            return None
        return hashlib.blake2b((self._prefix + text).encode("utf-8", "surrogatepass"), digest_size=16).digest()

    async def get(self, key: bytes) -> str | None:
        return self._cache.get(key)

    def put(self, key: bytes, text: str) -> None:
        self._cache.put(key, text)

    async def aclose(self) -> None:
        pass


class _FileStore(_MemoryStore):
    """Store of outputs in a file. One thread accesses it; requests that arrive meanwhile form its next task."""

    def __init__(self, cache: Cache, node: BaseNode) -> None:
        super().__init__(cache, node)
        self._loop = asyncio.get_running_loop()
        self._threads = None if is_virtual(self._loop) else DaemonThreads("flowrt-cache")
        self._file: CacheFile | None = None
        self._gets: dict[bytes, asyncio.Future[str | None]] = {}
        self._puts: dict[bytes, str] = {}
        self._exchange: asyncio.Future[Any] | None = None

    async def open(self) -> None:
        """Open the file.

        Raises:
            ValueError: The file is not a cache of flowrt.
        """
        from flowrt.policies.cache_file import CacheFile  # noqa: PLC0415  # sqlite3 is for those who use a file

        opening = self._call(CacheFile, self._cache)
        try:
            self._file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            self._end_threads()
            raise
        except ValueError:
            self._end_threads()
            raise
        except Exception as exc:
            self._give_up(exc)

    async def get(self, key: bytes) -> str | None:
        if self._file is None:
            return None
        answer: asyncio.Future[str | None] = self._loop.create_future()
        self._gets[key] = answer
        self._begin_exchange()
        return await answer

    def put(self, key: bytes, text: str) -> None:
        if self._file is not None:
            self._puts[key] = text
            self._begin_exchange()

    async def aclose(self) -> None:
        """Write the pending outputs, for at most 5 s, and close the file."""
        deadline_s = self._loop.time() + GRACE_S
        while self._exchange is not None and (left_s := deadline_s - self._loop.time()) > 0:
            await asyncio.wait([self._exchange], timeout=left_s)
            await asyncio.sleep(0)  # its callback
        file, self._file = self._file, None
        if file is not None:
            await asyncio.wait([self._call(file.close)], timeout=max(0.0, deadline_s - self._loop.time()))
        self._end_threads()

    def _end_threads(self) -> None:
        if self._threads is not None:
            self._threads.close()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        if self._threads is not None:
            return self._threads.submit(self._loop, function, *arguments).answer
        answer: asyncio.Future[Any] = self._loop.create_future()
        try:
            answer.set_result(function(*arguments))
        except Exception as exc:
            answer.set_exception(exc)
        return answer

    def _begin_exchange(self) -> None:
        if self._exchange is not None or self._file is None or not (self._gets or self._puts):
            return
        gets, self._gets = self._gets, {}
        puts, self._puts = self._puts, {}
        self._exchange = self._call(self._file.exchange, list(gets), puts)
        self._exchange.add_done_callback(lambda done: self._end_exchange(done, gets))

    def _end_exchange(self, done: asyncio.Future[dict[bytes, str]], gets: dict[bytes, Any]) -> None:
        self._exchange = None
        error = done.exception()
        if error is not None:
            self._give_up(error)
        found = {} if error is not None else done.result()
        for key, answer in gets.items():
            if not answer.done():
                answer.set_result(found.get(key))
        self._begin_exchange()

    def _give_up(self, error: BaseException) -> None:
        """Continue without the file, since a failing cache must not fail the batch."""
        _log.warning("cache %s is not used: %s: %s", self._cache.path, type(error).__name__, error)
        file, self._file = self._file, None
        for answer in self._gets.values():
            if not answer.done():
                answer.set_result(None)
        self._gets, self._puts = {}, {}
        if file is not None:
            self._call(file.close)


def _close_opened(opening: asyncio.Future[CacheFile]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
