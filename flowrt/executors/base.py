"""Executor protocol: opens a session that runs a node's attempts for one batch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from flowrt.model.node import BaseNode, NodeContext, WorkflowContext

__all__ = ["Executor", "Session"]


class Session(Protocol):
    """An executor's state for one batch."""

    @property
    def invoke(self) -> Callable[[NodeContext, WorkflowContext], Awaitable[Any]]:
        """Run one attempt; return or raise what the node's `execute` returns or raises."""

    def abandon_one(self) -> None:
        """Replace the capacity of an attempt that did not end when it was cancelled."""

    def close(self) -> None:
        """Release the resources at the end of the batch; all attempts have ended, except abandoned ones."""


class Executor(Protocol):
    """Runs attempts; the loop and the threads are two executors."""

    def open(self, node: BaseNode, slots: int) -> Session:
        """Open a session that runs up to `slots` attempts of a node at once."""
