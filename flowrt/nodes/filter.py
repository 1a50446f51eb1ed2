"""FilterNode: keeps the items for which a predicate is true."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic

from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext
from flowrt.model.type_variables import In
from flowrt.nodes._collection import OutputKey, check_callable, for_each, items_of
from flowrt.nodes.outputs import FilterOutput

__all__ = ["FilterNode"]


class FilterNode(BaseNode[Mapping[str, Any], FilterOutput[In]], Generic[In]):
    """Keeps the items for which a predicate is true, in their order.

    A type checker infers `In`, the type of the items, from the predicate; write `FilterNode[int](...)` for a lambda.

    Args:
        node_id: Names the node.
        filter_fn: `fn(item)`, called on the loop, so it should be quick; an async function is awaited.
        input_key: Key of the items in the input.
        output_key: Key of the kept items in the output.
        name: Display name; the node_id by default.
        config: The node's own settings.

    Raises:
        ValueError: `output_key` is the key of a count.
        TypeError: `filter_fn` is not callable.
    """

    output_key = OutputKey("original_count", "filtered_count")

    def __init__(
        self,
        node_id: str,
        filter_fn: Callable[[In], object],
        input_key: str = "items",
        output_key: str = "filtered",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(node_id, "filter", name, config)
        self.filter_fn = check_callable("filter_fn", filter_fn)
        self.input_key = input_key
        self.output_key = output_key

    async def execute(
        self,
        node_context: NodeContext[Mapping[str, Any]],
        workflow_context: WorkflowContext,  # noqa: ARG002
    ) -> NodeResult[FilterOutput[In]]:
        """Filter the items.

        Returns:
            `{output_key: [...], "original_count", "filtered_count"}`, or a failed result that names the item at which
            the predicate or the source raised.
        """
        items = items_of(node_context, self.input_key)
        if isinstance(items, NodeResult):
            return items
        kept: list[Any] = []

        def keep(item: Any, wanted: Any) -> None:
            if wanted:
                kept.append(item)

        count = await for_each(items, "filter_fn", self.filter_fn, keep)
        if isinstance(count, NodeResult):
            return count
        output: Any = {self.output_key: kept, "original_count": count, "filtered_count": len(kept)}
        return NodeResult(True, output)
