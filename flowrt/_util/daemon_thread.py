"""Blocking functions in daemon threads, awaited on an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from flowrt._util.cpu_time import CpuTime, read_times

__all__ = ["Call", "DaemonThreads", "run_in_daemon_thread"]

T = TypeVar("T")
_SHORT_NS: Final = 50_000  # calls shorter than this are measured together: a thread's clock takes 0.7 µs to read


def run_in_daemon_thread(loop: asyncio.AbstractEventLoop, function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run a blocking function in a daemon thread of its own.

    Unlike a thread of the loop's default executor, it does not wait for a shared pool and does not delay the exit of
    the process.

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


class Call:
    """One call in a thread of a pool.

    Attributes:
        answer: A future of the function's result or exception. It never ends if the loop is closed first.
        ended: True once the function has returned or raised, as far as the loop knows.
    """

    __slots__ = ("_waiter", "answer", "arguments", "ended", "function")

    def __init__(self, answer: asyncio.Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.answer = answer
        self.function = function
        self.arguments = arguments
        self.ended = False
        self._waiter: asyncio.Future[None] | None = None

    def wait_for_end(self) -> asyncio.Future[None]:
        """Return a future that is done once the function has ended, even if the answer was cancelled."""
        if self._waiter is None:
            self._waiter = self.answer.get_loop().create_future()
            if self.ended:
                self._waiter.set_result(None)
        return self._waiter

    def end(self, result: Any, error: BaseException | None) -> None:
        """Set the outcome, on the loop's thread."""
        self.ended = True
        _settle(self.answer, result, error)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class DaemonThreads:
    """Pool of daemon threads behind one queue; a thread is added when there are more calls than threads.

    Unlike in a `ThreadPoolExecutor`, a call that never returns does not keep the process from exiting. Calls and
    outcomes pass between the loop and the threads in groups: after a call, a thread takes the next one without going
    to sleep, and the loop is woken once for all outcomes that have arrived by then.

    Args:
        name: Prefix of the threads' names.
        cpu_time: Adds up the times of the calls, or None.
    """

    def __init__(self, name: str, cpu_time: CpuTime | None = None) -> None:
        self._name = name
        self._cpu_time = cpu_time
        self._threads: list[threading.Thread] = []
        self._active = 0  # calls whose outcome has not reached the loop; never more than there are threads
        self._calls: deque[Call | None] = deque()  # None ends a thread
        self._bell = threading.Lock()  # locked while there is no reason for a thread to wake up
        self._bell.acquire()
        self._outcomes: deque[tuple[Call, Any, BaseException | None]] = deque()
        self._signalled = False  # the loop is about to look at the outcomes

    def submit(self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *arguments: Any) -> Call:
        """Call a function in a thread.

        Args:
            loop: The loop that awaits the answer; always the same one.
            function: The function; it runs to its end even if the answer is cancelled.
            arguments: Its arguments.
        """
        call = Call(loop.create_future(), function, arguments)
        self._active += 1
        self._calls.append(call)
        if self._active > len(self._threads):
            name = f"{self._name}_{len(self._threads)}"
            self._threads.append(thread := threading.Thread(target=self._serve, name=name, daemon=True))
            thread.start()
        self._ring()
        return call

    def close(self) -> None:
        """End the threads. Wait for them unless a call is active, in which case each thread ends after its call."""
        threads, self._threads = self._threads, []
        self._calls.extend([None] * len(threads))
        self._ring()
        if not self._active:
            for thread in threads:
                thread.join()

    def _ring(self) -> None:
        """Wake one thread, which wakes the next one if there are more calls.

        The queue of the standard library would wake a thread for each call from Python 3.13 on, and most of them would
        find that another thread has taken it.
        """
        if self._bell.locked():
            with suppress(RuntimeError):  # another thread rang at the same time
                self._bell.release()

    def _serve(self) -> None:
        """Run calls until a None ends the thread."""
        calls, cpu_time = self._calls, self._cpu_time
        call: Call | None
        result: Any
        while True:
            self._bell.acquire()
            if len(calls) > 1:
                self._ring()
            times = (0, 0) if cpu_time is None else read_times()
            while calls:
                try:
                    call = calls.popleft()
                except IndexError:  # another thread was quicker
                    break
                if call is None:
                    return
                result = error = None
                try:
                    result = call.function(*call.arguments)
                except BaseException as exc:  # raised again where the answer is awaited
                    error = _error_for_future(exc)
                if cpu_time is not None and (not calls or time.perf_counter_ns() - times[1] > _SHORT_NS):
                    times = cpu_time.add_since(times)  # the next call begins where this one ended
                self._report(call, result, error)
                del call, result, error  # an idle thread keeps nothing alive, and a traceback holds this frame

    def _report(self, call: Call, result: Any, error: BaseException | None) -> None:
        self._outcomes.append((call, result, error))
        if not self._signalled:
            self._signalled = True
            with suppress(RuntimeError):  # the loop has been closed
                call.answer.get_loop().call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        """Set the outcomes that have arrived, on the loop's thread."""
        self._signalled = False  # cleared first: an outcome that arrives from now on signals again
        outcomes = self._outcomes
        while outcomes:
            call, result, error = outcomes.popleft()
            self._active -= 1
            call.end(result, error)


def _error_for_future(error: BaseException) -> BaseException:
    """Return the error, or a RuntimeError for a StopIteration, which a future refuses; a coroutine does the same."""
    if not isinstance(error, StopIteration):
        return error
    replacement = RuntimeError("the function raised StopIteration")
    replacement.__cause__ = error
    return replacement


def _run(answer: asyncio.Future[Any], function: Callable[[], Any]) -> None:
    result: Any = None
    error: BaseException | None = None
    try:
        result = function()
    except BaseException as exc:  # raised again where the future is awaited
        error = _error_for_future(exc)
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
