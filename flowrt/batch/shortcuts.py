"""One-line forms of a batch: `map` runs a function over items, `node` attaches settings to a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, Unpack, overload

from flowrt.batch.build import Inputs
from flowrt.batch.processor import BatchProcessor
from flowrt.batch.results import BatchResults
from flowrt.batch.settings import BatchSettings, PresetNode
from flowrt.model.node import AsyncFunction, BaseNode, NodeResult, PlainFunction, ResultFunction, WorkflowContext
from flowrt.model.type_variables import In, Out, Returned

__all__ = ["ConfiguredNode", "map", "node"]

Awaiting = Coroutine[object, None, Out]
"""Return type of a call of an async function."""


class ConfiguredNode(PresetNode[In, Out], Generic[In, Out, Returned]):
    """Function with the settings of its batches, made by `flowrt.node`. Calling it calls the function.

    Every batch of the function uses the settings; `map`, `flowrt.map`, `BatchProcessor(...)` and `flowrt run` may
    override them.

    Args:
        fn: A function of one argument, as for `FunctionNode`.
        node_id: Name on spans, metrics and logs; the function's name by default.
        settings: Settings of its batches.

    Attributes:
        processor: Runs the batches that override no setting.

    Raises:
        ValueError: A setting is out of its range.
        TypeError: A setting is unknown, or `fn` is not callable.
    """

    def __init__(self, fn: Callable[[In], Returned], node_id: str | None, settings: BatchSettings) -> None:
        super().__init__(fn, node_id, settings)
        functools.update_wrapper(self, fn)
        self.processor: BatchProcessor[In, Out] = BatchProcessor(self)

    def __call__(self, item: In) -> Returned:
        """Call the function itself, outside any batch."""
        returned: Returned = self.fn(item)
        return returned

    async def map(
        self,
        inputs: Inputs[In],
        *,
        workflow_context: WorkflowContext | None = None,
        progress: bool = False,
        **settings: Unpack[BatchSettings],
    ) -> BatchResults[In, Out]:
        """Run the function over many items at once.

        Args:
            inputs: Any iterable or async iterable of items.
            workflow_context: Shared by all items; a new one by default.
            progress: Show a progress bar.
            settings: Settings of `BatchProcessor` that override the node's own in this batch.

        Returns:
            One result per input, in input order.

        Raises:
            TypeError: `inputs` is not an iterable of items, or a setting is unknown.
            ValueError: A setting is out of its range.
        """
        processor: BatchProcessor[In, Out] = BatchProcessor(self, **settings) if settings else self.processor
        return await processor.batch(inputs, workflow_context, progress=progress)


@overload
async def map(
    node: BaseNode[In, Out],
    inputs: Inputs[In],
    *,
    workflow_context: WorkflowContext | None = None,
    progress: bool = False,
    **settings: Unpack[BatchSettings],
) -> BatchResults[In, Out]: ...
@overload
async def map(
    node: ResultFunction[In, Out],
    inputs: Inputs[In],
    *,
    workflow_context: WorkflowContext | None = None,
    progress: bool = False,
    **settings: Unpack[BatchSettings],
) -> BatchResults[In, Out]: ...
@overload
async def map(
    node: AsyncFunction[In, Out],
    inputs: Inputs[In],
    *,
    workflow_context: WorkflowContext | None = None,
    progress: bool = False,
    **settings: Unpack[BatchSettings],
) -> BatchResults[In, Out]: ...
@overload
async def map(
    node: PlainFunction[In, Out],
    inputs: Inputs[In],
    *,
    workflow_context: WorkflowContext | None = None,
    progress: bool = False,
    **settings: Unpack[BatchSettings],
) -> BatchResults[In, Out]: ...
async def map(
    node: Any,
    inputs: Inputs[Any],
    *,
    workflow_context: WorkflowContext | None = None,
    progress: bool = False,
    **settings: Unpack[BatchSettings],
) -> BatchResults[Any, Any]:
    """Run a function or node over many items at once, and wait for every result.

    The one-line form of `BatchProcessor(node, **settings).batch(inputs)`.

    Args:
        node: A function of one argument (async, or sync and then run in a worker thread), or a BaseNode.
        inputs: Any iterable or async iterable of items, pulled as slots become free.
        workflow_context: Shared by all items; a new one by default.
        progress: Show a progress bar.
        settings: Settings of `BatchProcessor`; they override the settings of a `flowrt.node`.

    Returns:
        One result per input, in input order.

    Raises:
        TypeError: `inputs` is not an iterable of items, or a setting is unknown.
        ValueError: A setting is out of its range.

    Example:
        >>> import asyncio, flowrt
        >>> async def double(x):
        ...     return 2 * x
        >>> asyncio.run(flowrt.map(double, [1, 2, 3], max_concurrency=2)).outputs
        [2, 4, 6]
    """
    if isinstance(node, ConfiguredNode):
        return await node.map(inputs, workflow_context=workflow_context, progress=progress, **settings)
    return await BatchProcessor(node, **settings).batch(inputs, workflow_context, progress=progress)


class _Decorator(Protocol):
    """Return type of `flowrt.node(...)` with settings."""

    @overload
    def __call__(
        self, fn: AsyncFunction[In, NodeResult[Out]], /
    ) -> ConfiguredNode[In, Out, Awaiting[NodeResult[Out]]]: ...
    @overload
    def __call__(self, fn: PlainFunction[In, NodeResult[Out]], /) -> ConfiguredNode[In, Out, NodeResult[Out]]: ...
    @overload
    def __call__(self, fn: AsyncFunction[In, Out], /) -> ConfiguredNode[In, Out, Awaiting[Out]]: ...
    @overload
    def __call__(self, fn: PlainFunction[In, Out], /) -> ConfiguredNode[In, Out, Out]: ...


@overload
def node(fn: AsyncFunction[In, NodeResult[Out]], /) -> ConfiguredNode[In, Out, Awaiting[NodeResult[Out]]]: ...
@overload
def node(fn: PlainFunction[In, NodeResult[Out]], /) -> ConfiguredNode[In, Out, NodeResult[Out]]: ...
@overload
def node(fn: AsyncFunction[In, Out], /) -> ConfiguredNode[In, Out, Awaiting[Out]]: ...
@overload
def node(fn: PlainFunction[In, Out], /) -> ConfiguredNode[In, Out, Out]: ...
@overload
def node(*, node_id: str | None = None, **settings: Unpack[BatchSettings]) -> _Decorator: ...
def node(fn: Any = None, /, *, node_id: str | None = None, **settings: Unpack[BatchSettings]) -> Any:
    """Decorate a function with the settings of its batches.

    Args:
        fn: The function, if the decorator is used without arguments.
        node_id: Name on spans, metrics and logs; the function's name by default.
        settings: Settings of `BatchProcessor`.

    Returns:
        A node that can still be called like the function, and whose `map(inputs)` runs it over many items.

    Example:
        >>> import asyncio, flowrt
        >>> @flowrt.node(max_concurrency=5, item_timeout=2.0)
        ... async def double(x):
        ...     return 2 * x
        >>> asyncio.run(double.map([1, 2, 3])).outputs
        [2, 4, 6]
        >>> asyncio.run(double(21))
        42
    """
    if fn is not None:
        return ConfiguredNode(fn, node_id, settings)
    return lambda decorated: ConfiguredNode(decorated, node_id, settings)
