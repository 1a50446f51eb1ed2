"""Threads executor: attempts in worker threads, for blocking functions and for async nodes that block the loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from flowrt._util.cpu_time import CpuTime
from flowrt._util.daemon_thread import Call as ThreadCall
from flowrt._util.daemon_thread import DaemonThreads
from flowrt.model.node import BaseNode, FunctionNode, NodeContext, NodeResult, WorkflowContext, is_async

__all__ = ["ThreadsExecutor", "ThreadsSession", "blocking_call"]

Call = Callable[[NodeContext, WorkflowContext], Any]
_ATOMS: Final = frozenset({type(None), bool, int, float, str, bytes, dict, list, tuple})
"""Common types of outputs, none of them awaitable: a look-up here is cheaper than `inspect.isawaitable`."""


def blocking_call(node: BaseNode) -> Call | None:
    """Return the plain function behind a node, or None if its `execute` is a coroutine function."""
    if type(node).execute is FunctionNode.execute and isinstance(node, FunctionNode):
        return None if node.is_async else node.call
    return None if is_async(node.execute) else node.execute


class ThreadsSession:
    """Worker threads of one batch, separate from the loop's default pool, which other blocking calls may exhaust.

    A thread cannot be interrupted. So a cancelled attempt keeps its slot until its thread has finished the call or was
    abandoned, which keeps the concurrency limit. The slots bound the number of threads.

    Args:
        node: The node.
        call: The blocking function to run in a thread.

    Attributes:
        cpu_time: CPU and wall time of the attempts that have ended.
        function: The node's plain function, called with the item alone; None if the node is not just such a function.
    """

    def __init__(self, node: BaseNode, call: Call) -> None:
        self._call = call
        self.cpu_time = CpuTime()
        self.function: Callable[[Any], Any] | None = None
        if isinstance(node, FunctionNode) and getattr(call, "__func__", None) is FunctionNode.call:
            self.function = node.fn
        self._threads = DaemonThreads(f"flowrt-{node.node_id}", self.cpu_time)
        self._cancelled: deque[asyncio.Future[None]] = deque()  # of attempts that were cancelled and have not ended

    async def invoke(self, node_context: NodeContext, workflow_context: WorkflowContext) -> Any:
        """Run one attempt in a thread, in the caller's context; await an awaitable result on the loop."""
        value = await self._in_thread(None, self._call, node_context, workflow_context)
        return await value if type(value) is not NodeResult and inspect.isawaitable(value) else value

    async def call_function(self, data: Any) -> Any:
        """Run one attempt of `function` in a thread; await an awaitable result on the loop."""
        value = await self._in_thread(None, self.function, data)
        return await value if type(value) not in _ATOMS and inspect.isawaitable(value) else value

    async def _in_thread(self, interrupt: Callable[[], None] | None, *call: Any) -> Any:
        submitted = self._threads.submit(asyncio.get_running_loop(), contextvars.copy_context().run, *call)
        try:
            return await submitted.answer
        except asyncio.CancelledError:
            if not submitted.answer.cancelled():  # the function raised it, or ended when the task was cancelled
                submitted.answer.exception()  # retrieved, or asyncio logs that it never was
            elif not submitted.ended:
                if interrupt is not None:
                    interrupt()
                await self._wait_for_end(submitted)
            raise

    async def _wait_for_end(self, call: ThreadCall) -> None:
        """Wait until the thread has finished a cancelled attempt, or the attempt was abandoned."""
        abandoned = asyncio.get_running_loop().create_future()
        self._cancelled.append(abandoned)
        while not call.ended and not abandoned.done():
            with suppress(asyncio.CancelledError):  # it may be cancelled again, by the batch's timeout
                await asyncio.wait([call.wait_for_end(), abandoned], return_when=asyncio.FIRST_COMPLETED)
        if not abandoned.done():
            self._cancelled.remove(abandoned)

    def abandon_one(self) -> None:
        """End the earliest cancelled attempt without its thread, for which a closing loop might wait for ever."""
        if self._cancelled:
            self._cancelled.popleft().set_result(None)

    def close(self) -> None:
        """End the threads. All except abandoned ones are idle, so the call hardly blocks."""
        self._threads.close()


class _OwnLoopSession(ThreadsSession):
    """Runs coroutine functions: each attempt on an event loop of its own in a worker thread."""

    def __init__(self, node: BaseNode) -> None:
        self._node = node
        super().__init__(node, node.execute)

    async def invoke(self, node_context: NodeContext, workflow_context: WorkflowContext) -> Any:
        """Run one attempt in a thread; cancellation cancels the coroutine there."""
        own = _OwnLoop(self._node)
        return await self._in_thread(own.cancel, own.run, node_context, workflow_context)


class _OwnLoop:
    """One coroutine on its own loop, cancellable from another thread."""

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

    def open(self, node: BaseNode, slots: int) -> ThreadsSession:  # noqa: ARG002  # the batch bounds its attempts
        """Open a session; its threads are started on demand."""
        call = blocking_call(node)
        return _OwnLoopSession(node) if call is None else ThreadsSession(node, call)

    def __repr__(self) -> str:
        return "ThreadsExecutor()"
