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
        """Run one attempt; return or raise what the node's `execute` returns or raises."""

    def abandon_one(self) -> None:
        """Replace the capacity of an attempt that did not end when it was cancelled."""

    def close(self) -> None:
        """Release the resources at the end of the batch; all attempts have ended, except abandoned ones."""


class RemoteSession(Session, Protocol):
    """A session whose attempts run in other processes: the engine gives it the records of the items.

    It sets `item.started_ns` of an item's own attempt when the attempt starts in its worker, 0 until then, so that
    time limits and hedges count run time and not the time in a queue.
    """

    def begin(self, workflow: WorkflowContext) -> None:
        """Take the workflow's context before the first attempt; raise TypeError if it cannot be sent."""

    def submit(self, item: ItemRecord, *, own: bool = True) -> Awaitable[Any]:
        """Run one attempt; `own` is False for a hedge."""


def is_remote(session: Session) -> TypeGuard[RemoteSession]:
    """True if the attempts run in other processes. One attribute tells: `isinstance` of a protocol takes 40 µs."""
    return hasattr(session, "submit")


class Executor(Protocol):
    """Runs attempts; the loop and the threads are two executors."""

    def open(self, node: BaseNode, slots: int) -> Session:
        """Open a session that runs up to `slots` attempts of a node at once."""
