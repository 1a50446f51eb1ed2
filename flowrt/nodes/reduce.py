"""ReduceNode: folds the items of a collection into one value."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, overload

from flowrt.errors import error_text
from flowrt.model.node import BaseNode, NodeContext, NodeResult, WorkflowContext, failed
from flowrt.model.type_variables import Out
from flowrt.nodes._collection import OutputKey, check_callable, for_each, items_of
from flowrt.nodes.outputs import ReduceOutput

__all__ = ["ReduceNode"]


class ReduceNode(BaseNode[Mapping[str, Any], ReduceOutput[Out]], Generic[Out]):
    """Folds the items from the left, in their order.

    A type checker infers `Out`, the type of the accumulator, where function and initial value agree on it.

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

    output_key = OutputKey("processed_count")

    @overload
    def __init__(
        self,
        node_id: str,
        reduce_fn: Callable[[Out, Any], Coroutine[Any, Any, Out]],
        initial_value: Out,
        input_key: str = "items",
        output_key: str = "result",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        node_id: str,
        reduce_fn: Callable[[Out, Any], Out],
        initial_value: Out,
        input_key: str = "items",
        output_key: str = "result",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        node_id: str,
        reduce_fn: Callable[[Any, Any], Any],
        initial_value: Any,
        input_key: str = "items",
        output_key: str = "result",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None: ...
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
        self.output_key = output_key

    async def execute(
        self,
        node_context: NodeContext[Mapping[str, Any]],
        workflow_context: WorkflowContext,  # noqa: ARG002
    ) -> NodeResult[ReduceOutput[Out]]:
        """Fold the items.

        Returns:
            `{output_key: value, "processed_count"}`, or a failed result that names the item at which the function or
            the source raised.
        """
        items = items_of(node_context, self.input_key)
        if isinstance(items, NodeResult):
            return items
        try:
            value = copy.deepcopy(self.initial_value)
        except Exception as exc:
            return failed(
                f"initial_value cannot be copied: {type(exc).__name__}: {error_text(exc)}; each run starts from a copy",
                {"exception": exc},
            )

        def fold(item: Any) -> Any:
            return self.reduce_fn(value, item)

        def keep(_: Any, folded: Any) -> None:
            nonlocal value
            value = folded

        count = await for_each(items, "reduce_fn", fold, keep)
        if isinstance(count, NodeResult):
            return count
        output: Any = {self.output_key: value, "processed_count": count}
        return NodeResult(True, output)
