"""Attempts on the caller's event loop, the default; what would block it goes to threads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from flowrt.executors.base import Session
from flowrt.executors.threads import ThreadsSession, blocking_call
from flowrt.model.node import BaseNode, NodeContext, WorkflowContext

__all__ = ["LoopExecutor"]


class LoopExecutor:
    """Runs coroutine functions on the loop that the batch runs on, and plain functions in worker threads."""

    def open(self, node: BaseNode, slots: int) -> Session:
        """Nothing to get ready for a coroutine function; a pool of threads for a plain one."""
        call = blocking_call(node)
        return _LoopSession(node) if call is None else ThreadsSession(call, slots, node.node_id)

    def __repr__(self) -> str:
        return "LoopExecutor()"


class _LoopSession:
    __slots__ = ("invoke",)

    def __init__(self, node: BaseNode) -> None:
        self.invoke: Callable[[NodeContext, WorkflowContext], Awaitable[Any]] = node.execute

    def abandon_one(self) -> None:
        """Nothing to make up for: a task that does not end holds no place of the executor's."""

    def close(self) -> None:
        """Nothing is held."""
