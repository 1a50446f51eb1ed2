"""Blocking functions in daemon threads, awaited on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["DaemonThreads", "run_in_daemon_thread"]

T = TypeVar("T")


def run_in_daemon_thread(loop: asyncio.AbstractEventLoop, function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run a blocking function in a daemon thread of its own.

    Unlike a thread of the loop's default executor, it needs no free place in a shared pool and does not delay the
    exit of the process.

    Args:
        loop: The loop that awaits the future.
        function: The function; it runs to its end even if the future is cancelled.
        name: Name of the thread.

    Returns:
        A future of the function's result or exception. It never ends if the loop is closed first.
    """
    answer: asyncio.Future[T] = loop.create_future()
    threading.Thread(target=_run, args=(answer, function), name=name, daemon=True).start()
    return answer


class DaemonThreads:
    """Pool of daemon threads: a call takes an idle thread, or a new one if none is idle.

    A call that never returns does not keep the process from exiting, as a `ThreadPoolExecutor`'s thread would.

    Args:
        name: Prefix of the threads' names.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = 0
        self._idle: deque[_Worker] = deque()
        self._closed = False

    def submit(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        """Call a function in a thread.

        Args:
            loop: The loop that awaits the future.
            function: The function; it runs to its end even if the future is cancelled.
            arguments: Its arguments.

        Returns:
            A future of the function's result or exception. It never ends if the loop is closed first.
        """
        answer: asyncio.Future[Any] = loop.create_future()
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self._run, f"{self._name}_{self._started}")
            self._started += 1
        worker.calls.put((answer, function, arguments))
        return answer

    def close(self) -> None:
        """End the threads; wait for idle ones, which end at once, and let busy ones end by themselves."""
        self._closed = True
        idle = []
        while self._idle:
            idle.append(worker := self._idle.pop())
            worker.calls.put(None)
        for worker in idle:
            worker.thread.join()

    def _run(self, worker: _Worker) -> None:
        while (call := worker.calls.get()) is not None:
            answer, function, arguments = call
            # The thread is idle before its answer is delivered, since the receiver of the last one may end all threads.
            _run(answer, function, *arguments, before_answer=lambda: self._idle.append(worker))
            del answer, function, arguments, call  # an idle thread keeps nothing alive
            if self._closed:
                break


class _Worker:
    """A thread of a pool, and its queue of calls; None ends it."""

    __slots__ = ("calls", "thread")

    def __init__(self, run: Callable[[_Worker], None], name: str) -> None:
        self.calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self.thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)
        self.thread.start()


def _run(
    answer: asyncio.Future[Any],
    function: Callable[..., Any],
    *arguments: Any,
    before_answer: Callable[[], None] = lambda: None,
) -> None:
    result: Any = None
    error: BaseException | None = None
    try:
        result = function(*arguments)
    except StopIteration as exc:  # a future refuses it, since no coroutine could raise it
        error = RuntimeError("the function raised StopIteration")
        error.__cause__ = exc
    except BaseException as exc:  # raised again where the future is awaited
        error = exc
    before_answer()
    with suppress(RuntimeError):  # the loop has been closed
        answer.get_loop().call_soon_threadsafe(_settle, answer, result, error)
    del error  # its traceback holds this frame: without this they would be a cycle


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():  # it was cancelled
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
