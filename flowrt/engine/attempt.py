"""One attempt at one item: call the node where its executor says, and write down what came of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import flowrt.errors
from flowrt.engine.input_isolation import isolate
from flowrt.errors import error_text
from flowrt.model import BatchRecord, ItemRecord, Rejected
from flowrt.model.node import BaseNode, FunctionNode, NodeContext, NodeResult, WorkflowContext
from flowrt.model.result import error_type_of

__all__ = [
    "Begin",
    "Invoke",
    "RejectedInputError",
    "Settle",
    "make_begin",
    "make_direct",
    "settle",
    "settle_exception",
    "settle_value",
]

_MACHINERY: Final = tuple(
    f"{Path(file).parent}{os.sep}" for file in (asyncio.__file__, concurrent.futures.__file__, flowrt.errors.__file__)
)

Invoke = Callable[[NodeContext, WorkflowContext], Awaitable[Any]]
"""Runs a node's `execute` where the executor wants it."""

Begin = Callable[[ItemRecord], Awaitable[Any]]
"""Begins one attempt; awaiting it gives what the node gave, for `settle`, or raises, for `settle_exception`."""

Settle = Callable[[ItemRecord, Any], None]
"""Writes down what the node gave."""


class RejectedInputError(Exception):
    """The item is a `Rejected` and reaches no node."""


def make_begin(node: BaseNode, invoke: Invoke, workflow: WorkflowContext, batch: BatchRecord) -> Begin:
    """The function that begins a batch's attempts.

    Args:
        node: The node to run.
        invoke: How its executor runs it.
        workflow: Shared by all items.
        batch: The batch's record.
    """
    node_id, node_type, batch_id = node.node_id, node.node_type, batch.batch_id

    def begin(item: ItemRecord) -> Awaitable[Any]:
        data = item.input_data
        if type(data) is Rejected:
            raise RejectedInputError
        item.attempts = number = item.attempts + 1
        return invoke(NodeContext(node_id, node_type, isolate(data), item.index, number, batch_id), workflow)

    return begin


def make_direct(node: BaseNode, invoke: Invoke) -> Begin | None:
    """The same for an async function on the loop, called as it is; None for any other node.

    Its attempts need no NodeContext, no coroutine but its own and no NodeResult: what it returns is for `settle_value`.

    Args:
        node: The node to run.
        invoke: How its executor runs it.
    """
    its_own = getattr(invoke, "__func__", None) is FunctionNode.execute and getattr(invoke, "__self__", None) is node
    if not isinstance(node, FunctionNode) or not its_own or not node.is_async:
        return None
    call: Callable[[Any], Awaitable[Any]] = node.fn

    def begin(item: ItemRecord) -> Awaitable[Any]:
        data = item.input_data
        if type(data) is Rejected:
            raise RejectedInputError
        item.attempts += 1
        return call(isolate(data))

    return begin


def settle_value(item: ItemRecord, value: Any) -> None:
    """The function returned: its value is the output, unless it is a NodeResult."""
    if isinstance(value, NodeResult):
        settle(item, value)
    else:
        item.status = "ok"
        item.output = value


def settle(item: ItemRecord, result: Any) -> None:
    """The node returned: write down what."""
    if type(result) is NodeResult and result.success:
        item.status = "ok"
        item.output = result.output
        if result._metadata is not None:  # noqa: SLF001  # the property would make a dict for every item
            item._metadata = result._metadata  # noqa: SLF001  # as above
    else:
        _settle_other(item, result)


def settle_exception(item: ItemRecord, exc: BaseException) -> None:
    """The node raised: keep the exception, without the engine's own frames."""
    item.status = "failed"
    if isinstance(exc, RejectedInputError):
        rejected = item.input_data
        item.input_data = rejected.input_data
        item.error = rejected.error
        item.error_type = rejected.error_type
        return
    item.error = error_text(exc)
    item.error_type = error_type_of(exc)
    item.exception = exc.with_traceback(_users_part(exc.__traceback__))


def _settle_other(item: ItemRecord, result: Any) -> None:
    if not isinstance(result, NodeResult):
        item.status = "failed"
        item.error = (
            f"node {item.batch.node_id!r} returned {type(result).__name__}, not a NodeResult: "
            "return NodeResult(success=True, output=...)"
        )
        item.error_type = "TypeError"
        item.exception = TypeError(item.error)
        return
    item.output = result.output
    item._metadata = result.metadata  # noqa: SLF001  # as above
    if result.success:  # an instance of a subclass
        item.status = "ok"
        return
    item.status = "failed"
    item.error = error_text(result.error)
    item.error_type = error_type_of(result.error)
    if isinstance(result.error, BaseException):
        item.exception = result.error


def _users_part(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback from the user's own code on, or where there is none in it all but its worker's frame."""
    at = traceback
    while at is not None and at.tb_frame.f_code.co_filename.startswith(_MACHINERY):
        at = at.tb_next
    if at is None and traceback is not None:
        return traceback.tb_next  # the worker's holds the whole batch
    return at
