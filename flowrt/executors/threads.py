"""Threads executor: attempts in worker threads, for blocking functions and for async nodes that block the loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from flowrt._util.cpu_time import CpuTime
from flowrt.model.node import BaseNode, FunctionNode, NodeContext, WorkflowContext, contained, is_async

__all__ = ["ThreadsExecutor", "ThreadsSession", "blocking_call"]

_MOST_THREADS: Final = 10_000

Call = Callable[[NodeContext, WorkflowContext], Any]


def blocking_call(node: BaseNode) -> Call | None:
    """Return the plain function behind a node, or None if its `execute` is a coroutine function."""
    if type(node).execute is FunctionNode.execute and isinstance(node, FunctionNode):
        return None if node.is_async else node.call
    return None if is_async(node.execute) else node.execute


class ThreadsSession:
    """Thread pool of one batch, which other blocking calls of the process cannot exhaust.

    A cancelled attempt keeps its slot until its thread has ended or was abandoned, however often it is cancelled: a
    thread cannot be interrupted, and the concurrency limit must hold.

    Args:
        call: The blocking function to run in a thread.
        slots: Attempts that may run at once.
        name: Prefix of the threads' names.

    Attributes:
        cpu_time: CPU and wall time of the attempts that have ended.
    """

    def __init__(self, call: Call, slots: int, name: str) -> None:
        self._call = call
        self._slots = slots
        self._name = f"flowrt-{name}"
        self._abandoned = False
        self.cpu_time = CpuTime()
        self._pool = self._new_pool()

    async def invoke(self, node_context: NodeContext, workflow_context: WorkflowContext) -> Any:
        """Run one attempt in a thread, in the caller's context; await an awaitable result on the loop."""
        value = await self._in_thread(self._call, node_context, workflow_context)
        return await value if inspect.isawaitable(value) else value

    async def _in_thread(self, call: Call, *arguments: Any, interrupt: Callable[[], None] | None = None) -> Any:
        run, pool = contextvars.copy_context().run, self._pool
        future = asyncio.get_running_loop().run_in_executor(
            pool, run, self.cpu_time.measure, contained, call, *arguments
        )
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if interrupt is not None:
                interrupt()
            while not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError:  # cancelled again: first by the item's timeout, then by the batch's
                    if pool is not self._pool:  # it was abandoned: only a closing loop still waits for it
                        raise
            if not future.cancelled():
                future.exception()  # mark it as retrieved, or asyncio logs "exception was never retrieved"
            raise

    def abandon_one(self) -> None:
        """Leave the pool to the attempt that does not end, and continue with a new one."""
        self._abandoned = True
        self._pool.shutdown(wait=False)
        self._pool = self._new_pool()

    def close(self) -> None:
        """End the threads; all are idle, so this does not block noticeably."""
        self._pool.shutdown(wait=not self._abandoned)

    def _new_pool(self) -> ThreadPoolExecutor:
        # a thread starts only when none is idle: the batch's workers are the bound, even after their number is raised
        return ThreadPoolExecutor(max(self._slots, _MOST_THREADS), thread_name_prefix=self._name)


class _OwnLoopSession(ThreadsSession):
    """Runs coroutine functions: each attempt on an event loop of its own in a worker thread."""

    def __init__(self, node: BaseNode, slots: int) -> None:
        self._node = node
        super().__init__(node.execute, slots, node.node_id)

    async def invoke(self, node_context: NodeContext, workflow_context: WorkflowContext) -> Any:
        """Run one attempt in a thread; cancellation cancels the coroutine there."""
        own = _OwnLoop(self._node)
        return await self._in_thread(own.run, node_context, workflow_context, interrupt=own.cancel)


class _OwnLoop:
    """One coroutine on a loop of its own, cancellable from another thread."""

    def __init__(self, node: BaseNode) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def run(self, node_context: NodeContext, workflow_context: WorkflowContext) -> Any:
        """Run the node in this thread until it ends."""

        async def main() -> Any:
            with self._lock:
                if self._cancelled:
                    raise asyncio.CancelledError
                self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            try:
                return await self._node.execute(node_context, workflow_context)
            finally:
                with self._lock:
                    self._loop = self._task = None

        with asyncio.Runner() as runner:
            return runner.run(main(), context=contextvars.copy_context())

    def cancel(self) -> None:
        """Cancel the node's coroutine unless it has ended."""
        with self._lock:
            self._cancelled = True
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)


class ThreadsExecutor:
    """Runs every attempt in a worker thread: `executor="threads"`.

    Each attempt of a coroutine function runs there on an event loop of its own.
    """

    def open(self, node: BaseNode, slots: int) -> ThreadsSession:
        """Open a pool of at most `slots` threads, started on demand."""
        call = blocking_call(node)
        return _OwnLoopSession(node, slots) if call is None else ThreadsSession(call, slots, node.node_id)

    def __repr__(self) -> str:
        return "ThreadsExecutor()"
