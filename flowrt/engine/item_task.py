"""Tasks of the engine: one for each item, and the few other tasks of a batch.

The engine calls the task classes itself, not the loop's task factory: an eager factory would run an item before its
slot has the task, and a factory with the signature `(loop, coro)` accepts no context.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Coroutine
from contextvars import Context
from functools import partial
from types import FrameType
from typing import Any, Final, Protocol

from flowrt._util.weak_registry import WeakRegistry

__all__ = [
    "ACTIVE_RUNS",
    "EAGER",
    "NEW_SLOT",
    "SCHEDULED",
    "ActiveRun",
    "ItemTask",
    "clear_cancellation",
    "clear_frames_later",
    "make_task",
    "retrieve_exception",
]


SCHEDULED: Final = 0
"""Start of a task in the loop's next turn, for the next item of a slot."""
NEW_SLOT: Final = 1
"""Start of a task in the loop's next turn, for the first item of a slot. The pool counts it as `starting`."""
EAGER: Final = 2
"""Eager start, as by `asyncio.Task(..., eager_start=True)`: the task runs at once, inside the task that creates it."""


class ActiveRun(Protocol):
    """Interface of a batch run."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which it runs."""

    @property
    def over(self) -> bool:
        """True once the run has ended and released its parts."""

    def stop(self, reason: str) -> None:
        """Cancel the items in flight."""


ACTIVE_RUNS: Final[WeakRegistry[Any]] = WeakRegistry()
"""All runs that have started and are not over."""


class ItemTask(asyncio.Task[None]):
    """Task of one item.

    A cancellation before the task's first step is delayed until after that step: asyncio would throw the
    CancelledError into a coroutine that has not begun, which could neither finish its item nor start the next one. A
    cancellation while the loop is not running comes from `asyncio.run`, which cancels all tasks before it closes the
    loop; it stops the whole batch.
    """

    __slots__ = ()

    def cancel(self, msg: Any | None = None) -> bool:
        """Request cancellation, as `asyncio.Task.cancel` does."""
        loop = self.get_loop()
        if not loop.is_running() and loop not in _stopped:
            _stop_batches(loop)
        if not self.done():
            coroutine: Any = self.get_coro()
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                loop.call_soon(super().cancel, msg)
                return True
        return super().cancel(msg)


_stopped: Final[weakref.WeakSet[asyncio.AbstractEventLoop]] = weakref.WeakSet()  # until they run again


def _stop_batches(loop: asyncio.AbstractEventLoop) -> None:
    """Stop all batches of a loop that does not run, once: each of them cancels its items, which call this again."""
    _stopped.add(loop)
    if not loop.is_closed():
        loop.call_soon(_stopped.discard, loop)
    for run in ACTIVE_RUNS:
        if run.loop is loop and not run.over:
            run.stop("its event loop is closing")


def make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, name: str, context: Context
) -> asyncio.Task[Any]:
    """Make a task, ignoring the loop's task factory.

    Args:
        loop: The running loop.
        work: The coroutine to run.
        name: The task's name.
        context: The context in which it runs.
    """
    return asyncio.Task(work, loop=loop, name=name, context=context)


def clear_cancellation() -> None:
    """Call `uncancel()` on the current task until no cancellation request is left.

    The engine calls it after it has handled a CancelledError. Without it `task.cancelling()` would stay above zero,
    and the next `asyncio.timeout` in this task would treat its own cancellation as a request from outside.
    """
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def clear_frames_later(frame: FrameType, task: asyncio.Task[Any] | None, starter: asyncio.Task[Any] | None) -> None:
    """Clear the frames of a task when it has ended, since an exception that outlives the task holds them.

    Args:
        frame: The frame of the task's coroutine.
        task: The task.
        starter: Task that started it eagerly, or None; the frame holds the starter's frames as its callers.
    """
    if task is not None:
        task.add_done_callback(partial(_clear, frame, 1, task))
        if starter is not None:
            starter.add_done_callback(partial(_clear, frame, 3, task))


def _clear(frame: FrameType | None, count: int, task: asyncio.Task[Any], _: asyncio.Task[Any]) -> None:
    if not task.done():  # clearing the frame of a suspended coroutine would end the coroutine
        return
    while frame is not None and count:
        frame.clear()
        frame, count = frame.f_back, count - 1


def retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Retrieve a finished task's exception, so that asyncio does not log it as never retrieved."""
    if not task.cancelled():
        task.exception()
