"""The node of class-based arms, for each runtime; a runtime is imported only when its arm runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.jobs import Job

__all__ = ["flowrt_node", "nadoo_node", "take_x"]


async def take_x(item: Mapping[str, int]) -> int:
    """A no-op that worker processes can import."""
    return item["x"]


def flowrt_node(job: Job) -> Any:
    """The node for flowrt.

    Args:
        job: Work of an item.
    """
    from flowrt import BaseNode, NodeContext, NodeResult, WorkflowContext

    class Node(BaseNode):
        async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
            return NodeResult(success=True, output=await job(node_context.input_data))

    return Node("bench")


def nadoo_node(job: Job, attempts: int = 1) -> Any:
    """The node for nadoo-flow-core, with its own retries if items may fail.

    Args:
        job: Work of an item.
        attempts: Most attempts.
    """
    import nadoo_flow
    from nadoo_flow.resilience import RetryableNode, RetryPolicy

    names: dict[str, Any] = {"node_id": "bench", "node_type": "bench", "name": "bench", "config": {}}

    class Node(nadoo_flow.BaseNode):  # type: ignore[misc, name-defined, unused-ignore]
        async def execute(self, node_context: Any, workflow_context: Any) -> Any:
            output: Any = await job(node_context.input_data)
            return nadoo_flow.NodeResult(success=True, output=output)

    class Retrying(RetryableNode):  # type: ignore[misc, unused-ignore]
        async def _execute_with_retry(self, node_context: Any, workflow_context: Any) -> Any:
            output: Any = await job(node_context.input_data)
            return nadoo_flow.NodeResult(success=True, output=output)

    if attempts == 1:
        return Node(**names)
    policy = RetryPolicy(max_attempts=attempts, initial_delay=0.001, max_delay=0.001, jitter=0.0)
    return Retrying(**names, retry_policy=policy)
