"""Attempts: functions that call the node for one item, by way of its executor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from gc import is_tracked
from types import MethodType
from typing import Any

from flowrt.engine.input_isolation import ATOMS, isolate
from flowrt.engine.outcome import RejectedInputError
from flowrt.executors.base import RemoteSession
from flowrt.executors.threads import ThreadsSession
from flowrt.model import ItemRecord, Rejected
from flowrt.model.node import BaseNode, FunctionNode, NodeContext, WorkflowContext

__all__ = ["Begin", "Invoke", "make_begin", "make_direct", "make_remote"]

Invoke = Callable[[NodeContext, WorkflowContext], Awaitable[Any]]
"""Runs a node's `execute` in the place that the executor chooses: the loop, a thread, a process."""

Begin = Callable[[ItemRecord], Awaitable[Any]]
"""Begins one attempt; awaiting the result gives the node's value, for `settle`, or raises, for `settle_raised`."""


def make_begin(invoke: Invoke, key: str | None = None) -> Begin:
    """Make the function that begins attempts. It holds no state of a batch, so many batches may share it.

    Args:
        invoke: How an executor runs the node.
        key: The node receives `{key: input}`, made for each attempt; None for the input itself.
    """
    new = NodeContext.__new__

    def begin(item: ItemRecord) -> Awaitable[Any]:
        data = item.input_data
        kind = type(data)
        if key is not None:
            data = {key: data if kind in ATOMS else isolate(data)}
        elif kind is dict and not is_tracked(data):  # as `isolate` for the most common inputs, without a call
            data = data.copy()
        elif kind not in ATOMS:
            if kind is Rejected:
                raise RejectedInputError
            data = isolate(data)
        item.attempts = number = item.attempts + 1
        batch = item.batch
        workflow = batch.workflow
        if workflow is None:
            workflow = batch.workflow = WorkflowContext()
        context = new(NodeContext)  # without __init__: its keyword arguments would double the cost
        context.node_id = batch.node_id
        context.node_type = batch.node_type
        context.input_data = data
        context.index = item.index
        context.attempt = number
        context.batch_id = batch._batch_id or batch.batch_id  # noqa: SLF001  # the property makes it for the first item
        return invoke(context, workflow)

    return begin


def make_direct(node: BaseNode, invoke: Invoke, key: str | None = None) -> Begin | None:
    """Make the function that begins attempts of an async function on the loop, or of a plain function in threads.

    Such attempts need no NodeContext, no coroutine of the node and no NodeResult. Record their values with
    `settle_value`.

    Args:
        node: The node to run.
        invoke: How its executor runs it.
        key: As in `make_begin`.

    Returns:
        The function, or None if the node or its executor needs `make_begin`.
    """
    session = getattr(invoke, "__self__", None)
    call: Callable[[Any], Awaitable[Any]]
    if isinstance(session, ThreadsSession) and session.function is not None:
        call = session.call_function
    elif isinstance(node, FunctionNode) and node.is_async and invoke == MethodType(FunctionNode.execute, node):
        call = node.fn
    else:
        return None

    def begin(item: ItemRecord) -> Awaitable[Any]:
        data = item.input_data
        kind = type(data)
        if key is not None:
            data = {key: data if kind in ATOMS else isolate(data)}
        elif kind is dict and not is_tracked(data):  # as `isolate`, without a call for the most common inputs
            data = data.copy()
        elif kind not in ATOMS:
            if kind is Rejected:
                raise RejectedInputError
            data = isolate(data)
        item.attempts += 1
        return call(data)

    return begin


def make_remote(session: RemoteSession, *, hedged: bool) -> Begin:
    """Make the function that begins attempts in remote workers, which receive the item and no NodeContext.

    Args:
        session: The executor's session.
        hedged: True if an item may be hedged; the times of a hedge are not recorded as the item's.
    """
    submit = session.submit

    def begin(item: ItemRecord) -> Awaitable[Any]:
        if type(item.input_data) is Rejected:
            raise RejectedInputError
        item.attempts += 1
        return submit(item)

    def begin_hedged(item: ItemRecord) -> Awaitable[Any]:
        if type(item.input_data) is Rejected:
            raise RejectedInputError
        item.attempts += 1
        return submit(item, own=not item.beside)

    return begin_hedged if hedged else begin
