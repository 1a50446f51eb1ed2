"""Tasks of the engine: one for each item, and the few that a batch needs besides.

They are made directly and not by the loop's task factory: an eager factory would run an item before its slot is
recorded, and a factory of the form `(loop, coro)` takes no context.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from contextvars import Context
from functools import partial
from types import FrameType
from typing import Any, Final, Protocol

from flowrt._util.weak_registry import WeakRegistry

__all__ = [
    "ACTIVE_RUNS",
    "EAGER",
    "HIRED",
    "SCHEDULED",
    "ActiveRun",
    "ItemTask",
    "clear_cancellation",
    "clear_frames_later",
    "make_task",
    "retrieve_exception",
]


SCHEDULED: Final = 0
"""The task starts in the loop's next turn, in a slot that had an item before."""
HIRED: Final = 1
"""The same, in a new slot, which is counted as `starting`."""
EAGER: Final = 2
"""The task starts at once, inside of the task of the slot's item before."""


class ActiveRun(Protocol):
    """Interface of the runs on a task's loop."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the run is on."""

    @property
    def over(self) -> bool:
        """True if nothing of the run is left."""

    def stop(self, reason: str) -> None:
        """Cancel what is in flight."""


ACTIVE_RUNS: Final[WeakRegistry[Any]] = WeakRegistry()
"""Every run that has started and is not over."""


class ItemTask(asyncio.Task[None]):
    """Task of one item.

    A cancellation before the task's first step is put off until after that step: a coroutine that never begins could
    neither finish its item nor start its slot's next one. A cancellation while the loop is not running comes from
    `asyncio.run`, which cancels all tasks before it closes the loop; it stops the whole batch.
    """

    __slots__ = ()

    def cancel(self, msg: Any | None = None) -> bool:
        """Request cancellation, as `asyncio.Task.cancel` does."""
        loop = self.get_loop()
        if not loop.is_running():
            for run in ACTIVE_RUNS:
                if run.loop is loop and not run.over:
                    run.stop("its event loop is closing")
        if not self.done():
            coroutine: Any = self.get_coro()
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                loop.call_soon(super().cancel, msg)
                return True
        return super().cancel(msg)


def make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, name: str, context: Context
) -> asyncio.Task[Any]:
    """Make a task whatever the loop's task factory.

    Args:
        loop: The running loop.
        work: The coroutine to run.
        name: The task's name.
        context: The context to run it in.
    """
    return asyncio.Task(work, loop=loop, name=name, context=context)


def clear_cancellation() -> None:
    """Forget cancellations of the current task that were raised and are not to be passed on.

    Without it `task.cancelling()` stays above zero, and the next `asyncio.timeout` in this task would take its own
    cancellation for the caller's.
    """
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def clear_frames_later(frame: FrameType, task: asyncio.Task[Any] | None, starter: asyncio.Task[Any] | None) -> None:
    """Clear the frames of a task, which an exception holds, when the task has ended.

    Args:
        frame: The frame of the task's coroutine.
        task: The task.
        starter: Task inside of which it was started, if it was; the frame holds this task's frames as its callers.
    """
    if task is not None:
        task.add_done_callback(partial(_clear, frame, 1, task))
        if starter is not None:
            starter.add_done_callback(partial(_clear, frame, 3, task))


def _clear(frame: FrameType | None, count: int, task: asyncio.Task[Any], _: asyncio.Task[Any]) -> None:
    if not task.done():  # its frame waits without a caller, and to clear it would end its coroutine
        return
    while frame is not None and count:
        frame.clear()
        frame, count = frame.f_back, count - 1


def retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Retrieve a finished task's exception, or asyncio would log that it was never retrieved."""
    if not task.cancelled():
        task.exception()
