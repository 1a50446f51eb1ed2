"""Nodes from callers: a BaseNode as it is, another library's node or a function wrapped into one."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from flowrt.model.node import BaseNode, FunctionNode, NodeContext, NodeResult, WorkflowContext, check_returns, is_async
from flowrt.model.type_variables import In

__all__ = ["ForeignNode", "NodeLike", "as_node"]


class ForeignNode(Protocol):
    """Node of another library: an object with an `execute`, async or not."""

    def execute(self, node_context: Any, workflow_context: Any, /) -> Any:
        """Do the work for one item; return an object with `success` and `output`, or an awaitable of one."""


class _ForeignNode(BaseNode):
    """A node of another library: an object with an async `execute`, and optionally a `node_id`, `node_type`, `name`."""

    def __init__(self, node: Any) -> None:
        kind, config = type(node).__name__, getattr(node, "config", None)
        super().__init__(
            str(getattr(node, "node_id", None) or kind),
            str(getattr(node, "node_type", None) or "node"),
            getattr(node, "name", None),
            config if isinstance(config, dict) else None,
        )
        self.fn = node

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        """Execute the foreign node."""
        return await _converted(self.fn.execute(node_context, workflow_context))


class _BlockingForeignNode(_ForeignNode):
    """A node of another library with a plain `def execute`, which runs in a thread."""

    def execute(  # type: ignore[override]  # as users override it
        self, node_context: NodeContext, workflow_context: WorkflowContext
    ) -> NodeResult | Awaitable[NodeResult]:
        """Execute the foreign node in the calling thread."""
        result = self.fn.execute(node_context, workflow_context)
        return _converted(result) if inspect.isawaitable(result) else _own_result(result)


async def _converted(result: Awaitable[Any]) -> NodeResult:
    return _own_result(await result)


def _own_result(result: Any) -> NodeResult:
    """Convert another library's result. A result without `success` is returned unchanged, and fails the item."""
    if isinstance(result, NodeResult) or not hasattr(result, "success"):
        own: NodeResult = result
        return own
    metadata = getattr(result, "metadata", None)
    return NodeResult(
        bool(result.success),
        getattr(result, "output", None),
        error=getattr(result, "error", None),
        metadata=dict(metadata) if isinstance(metadata, Mapping) else None,
        next_node_id=getattr(result, "next_node_id", None),
    )


NodeLike = BaseNode[In, Any] | Callable[[In], Any] | ForeignNode
"""Type of a node argument for items of type `In`, with any type of output."""


def as_node(node: Any) -> BaseNode:
    """Return a BaseNode for a BaseNode, another library's node, or a function of one argument.

    Another library's node is any object with an `execute(node_context, workflow_context)`, async or not.

    Raises:
        TypeError: `node` is none of these, such as a class instead of an instance.
    """
    if isinstance(node, BaseNode):
        if not hasattr(node, "node_id"):
            raise TypeError(f"{type(node).__name__} has no node_id: call super().__init__(node_id=...) in its __init__")
        check_returns(node.execute, f"{type(node).__name__}.execute")
        return node
    if isinstance(node, type):
        if issubclass(node, BaseNode):
            raise TypeError(f"{node.__name__} is a class: pass an instance, {node.__name__}()")
        raise TypeError(f"{node.__name__} is a class, not a node: pass a BaseNode or a function of one argument")
    execute = getattr(node, "execute", None)
    if callable(execute) and (hasattr(node, "node_id") or not callable(node)):
        check_returns(execute, f"{type(node).__name__}.execute")
        return _ForeignNode(node) if is_async(execute) else _BlockingForeignNode(node)
    if callable(node):
        return FunctionNode(node)
    raise TypeError(f"a node is a BaseNode or a function of one argument, not {node!r}")
