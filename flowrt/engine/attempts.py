"""One attempt at one item: call the node where its executor says, and write down what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from flowrt.engine.isolate import isolate
from flowrt.errors import error_text, error_type_of
from flowrt.nodes.base import BaseNode, NodeContext, NodeResult, WorkflowContext
from flowrt.records import BatchRecord, ItemRecord, Rejected

__all__ = ["Attempt", "Invoke", "make_attempt", "settle_exception"]

Invoke = Callable[[NodeContext, WorkflowContext], Awaitable[Any]]
"""Runs a node's `execute` where the executor wants it."""

Attempt = Callable[[ItemRecord], Awaitable[None]]
"""Runs one attempt and leaves its outcome on the record. Cancellation and SystemExit pass through."""


def make_attempt(node: BaseNode, invoke: Invoke, workflow: WorkflowContext, batch: BatchRecord) -> Attempt:
    """The attempt function of a batch.

    Args:
        node: The node to run.
        invoke: How its executor runs it.
        workflow: Shared by all items.
        batch: The batch's record.
    """
    node_id, node_type, batch_id = node.node_id, node.node_type, batch.batch_id

    async def attempt(item: ItemRecord) -> None:
        data = item.input_data
        if data.__class__ is Rejected:
            _settle_rejected(item, data)
            return
        item.attempts = number = item.attempts + 1
        try:
            result = await invoke(NodeContext(node_id, node_type, isolate(data), item.index, number, batch_id), workflow)
            if result.__class__ is NodeResult and result.success:
                item.state = "ok"
                item.output = result.output
                item.metadata = result.metadata
            else:
                _settle_failure(item, node, result)
        except Exception as exc:
            settle_exception(item, exc)

    return attempt


def settle_exception(item: ItemRecord, exc: BaseException) -> None:
    """The node raised: keep the exception, without the engine's own frames."""
    item.state = "failed"
    item.error = error_text(exc)
    item.error_type = error_type_of(exc)
    traceback = exc.__traceback__
    item.exception = exc.with_traceback(traceback.tb_next) if traceback is not None and traceback.tb_next else exc


def _settle_failure(item: ItemRecord, node: BaseNode, result: Any) -> None:
    if not isinstance(result, NodeResult):
        item.state = "failed"
        item.error = (
            f"{type(node).__name__} {node.node_id!r} returned {type(result).__name__}, not a NodeResult: "
            "return NodeResult(success=True, output=...)"
        )
        item.error_type = "TypeError"
        item.exception = TypeError(item.error)
        return
    item.output = result.output
    item.metadata = result.metadata
    if result.success:  # an instance of a subclass
        item.state = "ok"
        return
    item.state = "failed"
    item.error = error_text(result.error)
    item.error_type = error_type_of(result.error)
    if isinstance(result.error, BaseException):
        item.exception = result.error


def _settle_rejected(item: ItemRecord, rejected: Rejected) -> None:
    item.input_data = rejected.input_data
    item.state = "failed"
    item.error = rejected.error
    item.error_type = rejected.error_type
