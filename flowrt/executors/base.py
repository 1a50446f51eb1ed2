"""Executor protocol: opens a session that runs a node's attempts for one batch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeGuard

from flowrt.model import ItemRecord
from flowrt.model.node import BaseNode, NodeContext, WorkflowContext

__all__ = ["Executor", "RemoteSession", "Session", "is_remote"]


class Session(Protocol):
    """An executor's state for one batch."""

    @property
    def invoke(self) -> Callable[[NodeContext, WorkflowContext], Awaitable[Any]]:
        """Run one attempt of the node's `execute`; return its value or raise its exception."""

    def abandon_one(self) -> None:
        """Replace the capacity that is held by an attempt which outlasted the grace period."""

    def close(self) -> None:
        """Release the resources at the end of the batch; all attempts have ended, except abandoned ones."""


class RemoteSession(Session, Protocol):
    """Session whose attempts run in other processes. The engine passes it the records of the items.

    The session sets `item.started_ns` of an item's own attempt to 0, and to the start time when the attempt starts in
    a worker. So time limits and hedges measure the run time, without the time in queues.
    """

    def begin(self, workflow: WorkflowContext) -> None:
        """Set the workflow's context before the first attempt; raise TypeError if it cannot be pickled."""

    def submit(self, item: ItemRecord, *, own: bool = True) -> Awaitable[Any]:
        """Run one attempt; `own` is False for a hedge."""


def is_remote(session: Session) -> TypeGuard[RemoteSession]:
    """Return whether attempts run in other processes, by one attribute: `isinstance` of a protocol takes 40 µs."""
    return hasattr(session, "submit")


class Executor(Protocol):
    """Interface of an executor, such as the loop or threads."""

    def open(self, node: BaseNode, slots: int) -> Session:
        """Open a session that runs up to `slots` attempts of a node at once."""
