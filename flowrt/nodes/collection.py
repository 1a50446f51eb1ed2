"""Nodes over collections: map, filter, reduce."""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from flowrt.batch import BatchProcessor
from flowrt.errors import ItemFailedError, error_text
from flowrt.nodes.base import BaseNode, NodeContext, NodeResult, WorkflowContext, failed
from flowrt.records import BatchResult

__all__ = ["FilterNode", "MapNode", "ReduceNode"]

_MISSING: Final = object()
_CUT_SHORT: Final = "its batch was ended before all of its items had run"


class MapNode(BaseNode):
    """Runs a node over each item of a collection, at once and observed, as a batch named after the MapNode.

    Args:
        node_id: Names the node and its batch.
        child_node: A BaseNode, which gets `{"item": item}`, or a function, which gets the same.
        input_key: Where in the input the items are: any iterable or async iterable but a str, bytes or mapping.
        output_key: Where in the output the results go, aligned with the items; None at failed places.
        max_concurrency: How many items may run at once; an int of at least 1.
        continue_on_error: Whether a failed item leaves the others running.
        name: For people; the node_id by default.
        config: Settings of the node's own.

    Raises:
        ValueError: `max_concurrency` is not an int of at least 1, or `output_key` is one of the counts' keys.
        TypeError: `child_node` is neither a BaseNode nor a function.
    """

    def __init__(
        self,
        node_id: str,
        child_node: Any,
        input_key: str = "items",
        output_key: str = "results",
        max_concurrency: int = 10,
        continue_on_error: bool = True,
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(node_id, "map", name, config)
        self.input_key = input_key
        self.output_key = _check_output_key(output_key, ("total", "succeeded", "failed"))
        self._processor = BatchProcessor(child_node, max_concurrency, continue_on_error, name=node_id)

    @property
    def child_node(self) -> BaseNode:
        """The node that is run for each item."""
        return self._processor.node

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:
        """Run the child over all items.

        Returns:
            `{output_key: [...], "total", "succeeded", "failed"}`; with failures `success` is False, the successes
            are kept and `metadata["errors"]` lists `{index, error}`.
        """
        items = _items(node_context, self.input_key)
        if isinstance(items, NodeResult):
            return items
        stream = self._processor.batch_as_completed(_wrap(items), workflow_context)
        errors: list[dict[str, Any]] = []
        outputs: dict[int, Any] = {}
        total = 0
        stopped: str | None = None
        failure: BatchResult | None = None  # the first, by which the batch may have been stopped
        told = False
        try:
            async with stream:
                async for result in stream:
                    total += 1
                    if result.success:
                        outputs[result.index] = result.output
                    elif result.status != "cancelled":
                        errors.append({"index": result.index, "error": result.error})
                        failure = failure or result
        except ItemFailedError as exc:
            stopped, told = error_text(exc), exc.result is failure
        except Exception as exc:  # the failed item's own exception, or the source's
            stopped = f"stopped by {type(exc).__name__}: {error_text(exc)}"
            told = failure is not None and exc is failure.exception
        errors.sort(key=lambda entry: entry["index"])
        output = {
            self.output_key: [outputs.get(index) for index in range(total)],
            "total": total,
            "succeeded": len(outputs),
            "failed": total - len(outputs),
        }
        if stream.batch is not None and stream.batch.status == "ok":
            return NodeResult(True, output)
        if not errors:
            return failed(stopped or _CUT_SHORT, {"errors": errors}, output)
        first = f"item {errors[0]['index']}: {errors[0]['error']}"
        message = f"{total - len(outputs)} of {total} items did not succeed; the first: {first}"
        if stopped is not None and not told:
            message += f"; {stopped}"
        return failed(message, {"errors": errors}, output)


class FilterNode(BaseNode):
    """Keeps the items for which a predicate is true, in their order.

    Args:
        node_id: Names the node.
        filter_fn: `fn(item)`, called on the loop, so it should be quick; an async one is awaited.
        input_key: Where in the input the items are.
        output_key: Where in the output the kept items go.
        name: For people; the node_id by default.
        config: Settings of the node's own.

    Raises:
        ValueError: `output_key` is one of the counts' keys.
        TypeError: `filter_fn` is not callable.
    """

    def __init__(
        self,
        node_id: str,
        filter_fn: Callable[[Any], Any],
        input_key: str = "items",
        output_key: str = "filtered",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(node_id, "filter", name, config)
        self.filter_fn = _check_callable("filter_fn", filter_fn)
        self.input_key = input_key
        self.output_key = _check_output_key(output_key, ("original_count", "filtered_count"))

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:  # noqa: ARG002
        """Filter the items.

        Returns:
            `{output_key: [...], "original_count", "filtered_count"}`, or a failed result that names the item for
            which the predicate raised.
        """
        items = _items(node_context, self.input_key)
        if isinstance(items, NodeResult):
            return items
        kept: list[Any] = []
        count = 0
        try:
            async for item in _each(items):
                keep = self.filter_fn(item)
                if inspect.isawaitable(keep):
                    keep = await keep
                count += 1
                if keep:
                    kept.append(item)
        except Exception as exc:
            return _failed_at("filter_fn", count, exc)
        return NodeResult(True, {self.output_key: kept, "original_count": count, "filtered_count": len(kept)})


class ReduceNode(BaseNode):
    """Folds the items from the left, in their order.

    Args:
        node_id: Names the node.
        reduce_fn: `fn(accumulator, item)` → the new accumulator, called on the loop; an async one is awaited.
        initial_value: Where each run starts, from a copy of its own.
        input_key: Where in the input the items are.
        output_key: Where in the output the result goes.
        name: For people; the node_id by default.
        config: Settings of the node's own.

    Raises:
        ValueError: `output_key` is the count's key.
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
        self.reduce_fn = _check_callable("reduce_fn", reduce_fn)
        self.initial_value = initial_value
        self.input_key = input_key
        self.output_key = _check_output_key(output_key, ("processed_count",))

    async def execute(self, node_context: NodeContext, workflow_context: WorkflowContext) -> NodeResult:  # noqa: ARG002
        """Fold the items.

        Returns:
            `{output_key: value, "processed_count"}`, or a failed result that names the item at which the function
            raised.
        """
        items = _items(node_context, self.input_key)
        if isinstance(items, NodeResult):
            return items
        count = 0
        try:
            value = copy.deepcopy(self.initial_value)
            async for item in _each(items):
                value = self.reduce_fn(value, item)
                if inspect.isawaitable(value):
                    value = await value
                count += 1
        except Exception as exc:
            return _failed_at("reduce_fn", count, exc)
        return NodeResult(True, {self.output_key: value, "processed_count": count})


class _Sized:
    """Wrapped items of a known number, so that progress and metrics know it too."""

    def __init__(self, items: Collection[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return _wrapped(self._items)


def _wrap(items: Iterable[Any] | AsyncIterable[Any]) -> Iterable[Any] | AsyncIterable[Any]:
    """The items as a MapNode's child gets them."""
    if isinstance(items, AsyncIterable):
        return _wrapped_async(items)
    return _Sized(items) if isinstance(items, Collection) else _wrapped(items)


def _wrapped(items: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for item in items:
        yield {"item": item}


async def _wrapped_async(items: AsyncIterable[Any]) -> AsyncIterator[dict[str, Any]]:
    async for item in items:
        yield {"item": item}


async def _each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _items(node_context: NodeContext, key: str) -> Any:
    """The collection under the key, or a failed result that says what is wrong with it."""
    data = node_context.input_data
    if not isinstance(data, Mapping):
        return failed(f"input must be a mapping with the key {key!r}, not {type(data).__name__}")
    items = data.get(key, _MISSING)
    if items is _MISSING:
        keys = ", ".join(repr(k) for k in list(data)[:10]) or "none"
        return failed(f"Input key {key!r} not found; there are: {keys}")
    if isinstance(items, (str, bytes, bytearray, Mapping)) or not isinstance(items, (Iterable, AsyncIterable)):
        return failed(f"Input key {key!r} must hold an iterable of items, not {type(items).__name__}")
    return items


def _failed_at(what: str, index: int, exc: Exception) -> NodeResult:
    result = failed(f"{what} failed at item {index}: {type(exc).__name__}: {error_text(exc)}")
    result.metadata["exception"] = exc
    return result


def _check_output_key(key: str, taken: tuple[str, ...]) -> str:
    if key in taken:
        raise ValueError(f"output_key {key!r} is the key of a count in the output ({', '.join(taken)}): choose another")
    return key


def _check_callable(name: str, fn: Any) -> Any:
    if not callable(fn):
        raise TypeError(f"{name} must be a function, not {fn!r}")
    return fn
