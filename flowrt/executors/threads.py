"""Threads executor: attempts in worker threads, for blocking functions and for async nodes that block the loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flowrt._util.cpu_time import CpuTime
from flowrt._util.daemon_thread import DaemonThreads
from flowrt.model.node import BaseNode, FunctionNode, NodeContext, WorkflowContext, contained, is_async

__all__ = ["ThreadsExecutor", "ThreadsSession", "blocking_call"]

Call = Callable[[NodeContext, WorkflowContext], Any]


def blocking_call(node: BaseNode) -> Call | None:
    """Return the plain function behind a node, or None if its `execute` is a coroutine function."""
    if type(node).execute is FunctionNode.execute and isinstance(node, FunctionNode):
        return None if node.is_async else node.call
    return None if is_async(node.execute) else node.execute


class ThreadsSession:
    """Threads of one batch, which other blocking calls of the process cannot exhaust.

    A cancelled attempt keeps its slot until its thread has ended or was abandoned, however often it is cancelled: a
    thread cannot be interrupted, and the concurrency limit must hold. The slots bound the number of threads.

    Args:
        call: The blocking function to run in a thread.
        name: Part of the threads' names.

    Attributes:
        cpu_time: CPU and wall time of the attempts that have ended.
    """

    def __init__(self, call: Call, name: str) -> None:
        self._call = call
        self.cpu_time = CpuTime()
        self._threads = DaemonThreads(f"flowrt-{name}")
        self._cancelled: deque[asyncio.Future[None]] = deque()  # of attempts that were cancelled and have not ended

    async def invoke(self, node_context: NodeContext, workflow_context: WorkflowContext) -> Any:
        """Run one attempt in a thread, in the caller's context; await an awaitable result on the loop."""
        value = await self._in_thread(self._call, node_context, workflow_context)
        return await value if inspect.isawaitable(value) else value

    async def _in_thread(self, call: Call, *arguments: Any, interrupt: Callable[[], None] | None = None) -> Any:
        loop, run = asyncio.get_running_loop(), contextvars.copy_context().run
        answer = self._threads.submit(loop, run, self.cpu_time.measure, contained, call, *arguments)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if interrupt is not None:
                interrupt()
            answer.add_done_callback(_retrieve)
            abandoned = loop.create_future()
            self._cancelled.append(abandoned)
            while not answer.done() and not abandoned.done():
                with suppress(asyncio.CancelledError):  # it may be cancelled again, by the batch's timeout
                    await asyncio.wait([answer, abandoned], return_when=asyncio.FIRST_COMPLETED)
            if not abandoned.done():
                self._cancelled.remove(abandoned)
            raise

    def abandon_one(self) -> None:
        """End the attempt that was cancelled first, without its thread; a closing loop would wait for it for ever."""
        if self._cancelled:
            self._cancelled.popleft().set_result(None)

    def close(self) -> None:
        """End the threads; all but abandoned ones are idle, so this does not block noticeably."""
        self._threads.close()


def _retrieve(answer: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a cancelled attempt, or asyncio logs that it was never retrieved."""
    if not answer.cancelled():
        answer.exception()


class _OwnLoopSession(ThreadsSession):
    """Runs coroutine functions: each attempt on an event loop of its own in a worker thread."""

    def __init__(self, node: BaseNode) -> None:
        self._node = node
        super().__init__(node.execute, node.node_id)

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

    def open(self, node: BaseNode, slots: int) -> ThreadsSession:  # noqa: ARG002  # the batch bounds its attempts
        """Open a session; its threads are started on demand."""
        call = blocking_call(node)
        return _OwnLoopSession(node) if call is None else ThreadsSession(call, node.node_id)

    def __repr__(self) -> str:
        return "ThreadsExecutor()"
