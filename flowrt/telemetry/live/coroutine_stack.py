"""Stack of a suspended coroutine, read from another thread.

Nothing runs in the task's own thread: a coroutine's `cr_await` and its frame's line are plain attributes, and each
read is atomic under the interpreter's lock. A task that resumes meanwhile gives a shorter stack, never the stack of
another task.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import flowrt.errors

__all__ = ["FLOWRT", "Place", "places_of"]

_MAX_PLACES: Final = 20
FLOWRT: Final = f"{Path(flowrt.errors.__file__).parent}{os.sep}"
_LINKS: Final = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))


class Place(NamedTuple):
    """Line of code at which a coroutine waits.

    Attributes:
        function: Qualified name of the function.
        file: Path of the file.
        line: Number of the line.
    """

    function: str
    file: str
    line: int


def places_of(task: asyncio.Task[Any]) -> list[Place]:
    """Return the chain of awaits of an item's task below flowrt's own frames, outermost first.

    The chain continues into tasks that the code awaits: `await asyncio.create_task(...)`, the first pending task of a
    `gather`. It is empty for a task that has ended or runs no user code.

    Args:
        task: The task that runs the item.
    """
    places: list[Place] = []
    for frame in _frames(task):
        code = frame.f_code
        if not (code.co_filename.startswith(FLOWRT) and not places):
            places.append(Place(code.co_qualname, code.co_filename, frame.f_lineno))
        if len(places) >= _MAX_PLACES:
            break
    return places


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    visited: set[int] = set()
    while id(task) not in visited:
        visited.add(id(task))
        awaitable: Any = None if task.done() else task.get_coro()
        while awaitable is not None:
            frame, awaitable = _step(awaitable)
            if frame is not None:
                yield frame
        waiter = getattr(task, "_fut_waiter", None)  # private, but both the C and the Python Task have it
        for child in getattr(waiter, "_children", ()):
            if not child.done():
                waiter = child
                break
        if not isinstance(waiter, asyncio.Task):
            return
        task = waiter


def _step(awaitable: Any) -> tuple[FrameType | None, Any]:
    for frame, link in _LINKS:
        if hasattr(awaitable, link):
            return getattr(awaitable, frame, None), getattr(awaitable, link)
    return None, None
