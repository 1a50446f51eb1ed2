"""The node that every class-based arm runs, once for each runtime; none is imported before its arm asks for it."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["flowrt_node", "nadoo_node"]


def flowrt_node(sleep_s: float | None) -> Any:
    """The node for flowrt.

    Args:
        sleep_s: How long an item sleeps, in seconds; None for not at all, so that it never awaits.
    """
    from flowrt import BaseNode, NodeContext, NodeResult, WorkflowContext

    class Node(BaseNode):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            if sleep_s is not None:
                await asyncio.sleep(sleep_s)
            return NodeResult(success=True, output=node_context.input_data["x"])

    return Node("bench")


def nadoo_node(sleep_s: float | None) -> Any:
    """The same for nadoo-flow-core.

    Args:
        sleep_s: How long an item sleeps, in seconds; None for not at all, so that it never awaits.
    """
    import nadoo_flow

    class Node(nadoo_flow.BaseNode):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__(node_id="bench", node_type="bench", name="bench", config={})

        async def execute(self, node_context: Any, workflow_context: Any) -> Any:
            if sleep_s is not None:
                await asyncio.sleep(sleep_s)
            return nadoo_flow.NodeResult(success=True, output=node_context.input_data["x"])

    return Node()
