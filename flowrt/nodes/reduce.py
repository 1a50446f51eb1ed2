"""ReduceNode: folds the items of a collection into one value."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext
from flowrt.nodes._collection import check_callable, check_output_key, each_item, failed_at, items_of

__all__ = ["ReduceNode"]


class ReduceNode(BaseNode):
    """Folds the items from the left, in their order.

    Args:
        node_id: Names the node.
        reduce_fn: `fn(accumulator, item)` → the new accumulator, called on the loop; an async function is awaited.
        initial_value: The first accumulator; each run starts from a deep copy of it.
        input_key: Key of the items in the input.
        output_key: Key of the result in the output.
        name: Display name; the node_id by default.
        config: The node's own settings.

    Raises:
        ValueError: `output_key` is the key of the count.
        TypeError: `reduce_fn` is not callable.
    """

    def __init__(
        self,
        node_id: str,
        reduce_fn: Callable[[Any, Any], Any],
        initial_value: Any,
        input_key: str = "items",
        output_key: str = "result",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(node_id, "reduce", name, config)
        self.reduce_fn = check_callable("reduce_fn", reduce_fn)
        self.initial_value = initial_value
        self.input_key = input_key
        self.output_key = check_output_key(output_key, ("processed_count",))

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:  # noqa: ARG002
        """Fold the items.

        Returns:
            `{output_key: value, "processed_count"}`, or a failed result that names the item at which the function or
            the source raised.
        """
        items = items_of(node_context, self.input_key)
        if isinstance(items, NodeResult):
            return items
        count = 0
        try:
            value = copy.deepcopy(self.initial_value)
            async for item in each_item(items):
                value = self.reduce_fn(value, item)
                if inspect.isawaitable(value):
                    value = await value
                count += 1
        except Exception as exc:
            return failed_at("reduce_fn", count, exc)
        return NodeResult(True, {self.output_key: value, "processed_count": count})
