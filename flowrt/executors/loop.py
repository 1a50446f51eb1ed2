"""Loop executor, the default: attempts on the caller's event loop; plain functions go to threads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from flowrt.executors.base import Session
from flowrt.executors.threads import ThreadsSession, blocking_call
from flowrt.model.node import BaseNode, NodeContext, WorkflowContext

__all__ = ["LoopExecutor", "LoopSession"]


class LoopExecutor:
    """Runs coroutine functions on the batch's loop, and plain functions in worker threads."""

    def open(self, node: BaseNode, slots: int) -> Session:  # noqa: ARG002  # the batch bounds its attempts
        """Open a session; a plain function gets a pool of threads."""
        call = blocking_call(node)
        return LoopSession(node) if call is None else ThreadsSession(node, call)

    def __repr__(self) -> str:
        return "LoopExecutor()"


class LoopSession:
    """Session without state: the loop runs the node's coroutines as they are.

    Args:
        node: The node to run.
    """

    __slots__ = ("invoke",)

    def __init__(self, node: BaseNode) -> None:
        self.invoke: Callable[[NodeContext, WorkflowContext], Awaitable[Any]] = node.execute

    def abandon_one(self) -> None:
        """Do nothing: a task that does not end takes no capacity of the executor."""

    def close(self) -> None:
        """Do nothing: the session holds no resources."""
