"""What an executor is: it opens a place to run a node's attempts in, for the length of one batch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from flowrt.model.node import BaseNode, NodeContext, WorkflowContext

__all__ = ["Executor", "Session"]


class Session(Protocol):
    """An executor at work for one batch."""

    @property
    def invoke(self) -> Callable[[NodeContext, WorkflowContext], Awaitable[Any]]:
        """Runs one attempt and gives what the node's `execute` gave, or raises what it raised."""

    def abandon_one(self) -> None:
        """An attempt did not end when it was cancelled: make up for the place that it still holds."""

    def close(self) -> None:
        """The batch is over; every attempt has ended but those that were lost."""


class Executor(Protocol):
    """Where attempts run."""

    def open(self, node: BaseNode, slots: int) -> Session:
        """Get ready to run up to `slots` attempts of a node at once."""
