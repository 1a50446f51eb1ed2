"""Base of executors with pooled workers: warm from batch to batch, with one pool for each loop in use."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from functools import partial
from types import TracebackType
from typing import Self

from flowrt._util.daemon_thread import run_in_daemon_thread
from flowrt.executors.remote_pool import PoolSettings, RemotePool
from flowrt.executors.remote_session import RemoteSession
from flowrt.executors.transport import Launcher
from flowrt.model.node import BaseNode

__all__ = ["PooledExecutor"]


class PooledExecutor:
    """Base of the executors with remote workers; a subclass provides the launcher."""

    def __init__(self) -> None:
        self._pools: list[RemotePool] = []
        self._lock = threading.Lock()  # batches may start on loops in several threads

    def start_pool(self) -> tuple[Launcher, PoolSettings]:
        """Return the launcher and the settings of a new pool."""
        raise NotImplementedError

    def open(self, node: BaseNode, slots: int) -> RemoteSession:
        """Open a session in the workers of the running loop, or in idle ones."""
        loop = asyncio.get_running_loop()
        with self._lock:
            # those of a parent process are its own, and a Runtime may have closed some
            pools = self._pools = [pool for pool in self._pools if pool.pid == os.getpid() and not pool.closed]
            for pool in pools:
                if pool.loop is loop:
                    return pool.open(node, slots)
            for pool in pools:
                if pool.loop is None or pool.loop.is_closed():
                    return pool.open(node, slots)
            pool = RemotePool(*self.start_pool())
            self._pools.append(pool)
            atexit.register(pool.close)
            return pool.open(node, slots)

    def close(self) -> None:
        """End the workers, which fails running batches. A later batch starts new workers."""
        pools, self._pools = self._pools, []
        _close(pools)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pools, self._pools = self._pools, []
        _close([pool for pool in pools if pool.loop is not None])
        idle = [pool for pool in pools if not pool.closed]
        if idle:  # in a thread, as their workers take a while to end
            await run_in_daemon_thread(asyncio.get_running_loop(), partial(_close, idle), "flowrt-stop")


def _close(pools: list[RemotePool]) -> None:
    for pool in pools:
        pool.close()
        atexit.unregister(pool.close)
