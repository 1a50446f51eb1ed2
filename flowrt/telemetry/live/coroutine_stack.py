"""Where a suspended coroutine waits, read from another thread.

Nothing is called in the task's own thread: a coroutine's `cr_await` and its frame's line are plain attributes, and each
read is atomic under the interpreter's lock. What moves on meanwhile gives a shorter answer, never a wrong thread's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import flowrt.errors

__all__ = ["Place", "places_of"]

_MOST: Final = 20
_OURS: Final = f"{Path(flowrt.errors.__file__).parent}{os.sep}"
_LINKS: Final = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))


class Place(NamedTuple):
    """A line of code at which something waits.

    Attributes:
        function: The function's qualified name.
        file: The file's path.
        line: The line's number.
    """

    function: str
    file: str
    line: int


def places_of(task: asyncio.Task[Any]) -> list[Place]:
    """The chain of awaits of an item's task below flowrt's own frames, outermost first; empty where there is none.

    It follows tasks that the code waits for (`await asyncio.create_task(...)`, a `gather`'s first pending one).

    Args:
        task: The worker that runs the item.
    """
    places: list[Place] = []
    for frame in _frames(task):
        code = frame.f_code
        if not (code.co_filename.startswith(_OURS) and not places):
            places.append(Place(code.co_qualname, code.co_filename, frame.f_lineno))
        if len(places) >= _MOST:
            break
    return places


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    followed: set[int] = set()
    while id(task) not in followed:
        followed.add(id(task))
        at: Any = task.get_coro()
        while at is not None:
            frame, at = _step(at)
            if frame is not None:
                yield frame
        waiter = getattr(task, "_fut_waiter", None)  # CPython's, in both of its implementations
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
