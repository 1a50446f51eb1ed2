"""One-line forms of a batch: `map` runs a function over items, `node` attaches settings to a function."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, TypedDict, Unpack, overload

from flowrt.batch.build import Inputs
from flowrt.batch.processor import BatchProcessor
from flowrt.batch.results import BatchResults
from flowrt.engine.instrument import Instrument
from flowrt.executors import Executor
from flowrt.journal import Journal, JournalPolicy
from flowrt.model.node import FunctionNode, WorkflowContext
from flowrt.policies import AdaptiveLimit, CircuitBreaker, Hedge, RateLimit, RetryPolicy
from flowrt.telemetry.options import Telemetry

__all__ = ["BatchSettings", "ConfiguredNode", "map", "node"]


class BatchSettings(TypedDict, total=False):
    """Settings of a batch, as `BatchProcessor` takes them."""

    max_concurrency: int | AdaptiveLimit
    continue_on_error: bool
    item_timeout: float | None
    batch_timeout: float | None
    retry: RetryPolicy | int | None
    rate_limit: RateLimit | str | Iterable[RateLimit | str] | None
    breaker: CircuitBreaker | None
    hedge: Hedge | None
    executor: str | Executor | None
    journal: str | os.PathLike[str] | JournalPolicy | Journal | None
    record: str | os.PathLike[str] | None
    speedup_sample: int | None
    name: str | None
    telemetry: bool | Telemetry
    instruments: Iterable[Instrument]
    task_per_item: bool


class ConfiguredNode(FunctionNode):
    """Function with the settings of its batches, made by `flowrt.node`. Calling it calls the function.

    `map` and `flowrt.map` use the settings. `BatchProcessor(...)` and the command `flowrt run` take their own.

    Args:
        fn: As `FunctionNode` takes it.
        node_id: Name on spans, metrics and logs; the function's name by default.
        settings: Settings of its batches.

    Attributes:
        processor: Runs the batches that override no setting.

    Raises:
        ValueError: A setting is out of its range.
        TypeError: A setting is unknown, or `fn` is not callable.
    """

    def __init__(self, fn: Callable[[Any], Any], node_id: str | None, settings: BatchSettings) -> None:
        super().__init__(fn, node_id)
        functools.update_wrapper(self, fn)
        self._settings = settings
        self.processor = BatchProcessor(self, **settings)

    def __call__(self, item: Any) -> Any:
        """Call the function itself, outside any batch."""
        return self.fn(item)

    async def map(
        self,
        inputs: Inputs,
        *,
        workflow_context: WorkflowContext | None = None,
        progress: bool = False,
        **settings: Unpack[BatchSettings],
    ) -> BatchResults:
        """Run the function over many items at once.

        Args:
            inputs: Any iterable or async iterable of items.
            workflow_context: Shared by all items; a new one by default.
            progress: Show a progress bar.
            settings: Override the node's own in this batch.
        """
        processor = self.processor
        if settings:
            merged: BatchSettings = {**self._settings, **settings}
            processor = BatchProcessor(self, **merged)
        return await processor.batch(inputs, workflow_context, progress=progress)


async def map(  # noqa: A001  # flowrt.map, the concurrent form of the builtin
    node: Any,
    inputs: Inputs,
    *,
    workflow_context: WorkflowContext | None = None,
    progress: bool = False,
    **settings: Unpack[BatchSettings],
) -> BatchResults:
    """Run a function or node over many items at once, and wait for every result.

    The one-line form of `BatchProcessor(node, **settings).batch(inputs)`.

    Args:
        node: A function of one argument (async, or sync and then run in a worker thread), or a BaseNode.
        inputs: Any iterable or async iterable of items, pulled as slots become free.
        workflow_context: Shared by all items; a new one by default.
        progress: Show a progress bar.
        settings: As `BatchProcessor` takes them; they override those of a `flowrt.node`.

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


@overload
def node(fn: Callable[[Any], Any], /) -> ConfiguredNode: ...
@overload
def node(
    *, node_id: str | None = None, **settings: Unpack[BatchSettings]
) -> Callable[[Callable[[Any], Any]], ConfiguredNode]: ...
def node(
    fn: Callable[[Any], Any] | None = None, /, *, node_id: str | None = None, **settings: Unpack[BatchSettings]
) -> ConfiguredNode | Callable[[Callable[[Any], Any]], ConfiguredNode]:
    """Decorate a function with the settings of its batches.

    Args:
        fn: The function, if the decorator is used without arguments.
        node_id: Name on spans, metrics and logs; the function's name by default.
        settings: As `BatchProcessor` takes them.

    Returns:
        A node that can still be called as the function, with `map(inputs)` to run it over many items.

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
