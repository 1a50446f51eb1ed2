"""MapNode: runs a node over each item of a collection, as a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, TypedDict, Unpack, overload

from flowrt.batch.build import BatchPlan, Inputs, assemble
from flowrt.batch.processor import BatchProcessor
from flowrt.batch.results import BatchResults
from flowrt.engine.batch_run import BatchRun, enclosing_run
from flowrt.engine.outcome import Deliver
from flowrt.errors import error_text
from flowrt.model import BatchResult
from flowrt.model.foreign_node import ForeignNode, NodeLike
from flowrt.model.node import (
    AsyncFunction,
    BaseNode,
    NodeContext,
    NodeResult,
    PlainFunction,
    ResultFunction,
    WorkflowContext,
    failed,
)
from flowrt.model.result import ItemFailedError
from flowrt.model.type_variables import In, Out
from flowrt.nodes._collection import OutputKey, items_of
from flowrt.nodes.outputs import MapOutput
from flowrt.telemetry import Observer
from flowrt.telemetry.options import Telemetry

__all__ = ["MapNode"]

_CUT_SHORT: Final = "its batch was ended before all of its items had run"


_UNOBSERVED: Final = Observer(Telemetry.of(False), "part", "part", 1)


class _PartProcessor(BatchProcessor[In, Out]):
    """Processor for batches inside items, at a low cost for each batch.

    Inside an item, a batch has telemetry only if the enclosing batch has, and logs its start and end at DEBUG, since
    the item has its own events. Outside of an item it is an ordinary batch.

    Args:
        node: The node that runs for each input; it receives `{"item": input}`.
        max_concurrency: Most inputs that run at once.
        continue_on_error: False stops at the first failed input.
        name: Name of the batches.
    """

    def __init__(self, node: Any, max_concurrency: int, continue_on_error: bool, *, name: str) -> None:
        super().__init__(node, max_concurrency, continue_on_error, name=name)
        self._plan = BatchPlan(self.config, self._runs, input_key="item")
        self._quiet = Observer(self.telemetry, name, self.node.node_id, max_concurrency, part=True)

    def start(
        self,
        inputs: Inputs[In],
        workflow_context: WorkflowContext,
        deliver: Deliver,
    ) -> BatchRun:
        """Start a batch; the caller awaits its `join`, and then its `raise_if_interrupted`.

        Args:
            inputs: Any iterable or async iterable of items.
            workflow_context: Shared by all items.
            deliver: Receives each result when its item has finished.
        """
        outer = enclosing_run()
        observer = self._observer if outer is None else self._quiet if outer.observed else _UNOBSERVED
        run = assemble(self._plan_of(self.config), inputs, workflow_context, observer, deliver)
        run.start()
        return run


class _Child(TypedDict):
    """Input of the child, for functions whose argument is a TypedDict of their own."""

    item: Any


class MapSettings(TypedDict, total=False):
    """Settings of a MapNode that are keyword arguments."""

    continue_on_error: bool
    name: str | None
    config: dict[str, Any] | None


class MapNode(BaseNode[Mapping[str, Any], MapOutput[Out]], Generic[Out]):
    """Runs a node over each item of a collection, concurrently and observed, as a batch named after the MapNode.

    A type checker infers `Out`, the type of the child's outputs, from the child. All settings can be read and set
    later, too.

    Args:
        node_id: Names the node and its batch.
        child_node: A BaseNode or a function; either receives `{"item": item}`, as a dict or a TypedDict of yours.
        input_key: Key of the items in the input: any iterable or async iterable except a str, bytes or mapping.
        output_key: Key of the results in the output, aligned with the items; None for failed items.
        max_concurrency: Items that may run at once; an int of at least 1.
        continue_on_error: True to run the other items after a failure.
        name: Display name; the node_id by default.
        config: The node's own settings.

    Raises:
        ValueError: `max_concurrency` is not an int of at least 1, or `output_key` is the key of a count.
        TypeError: `child_node` is neither a BaseNode nor a function.
    """

    output_key = OutputKey("total", "succeeded", "failed")

    @overload
    def __init__(
        self,
        node_id: str,
        child_node: BaseNode[dict[str, Any], Out],
        input_key: str = "items",
        output_key: str = "results",
        max_concurrency: int = 10,
        **settings: Unpack[MapSettings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        node_id: str,
        child_node: ResultFunction[dict[str, Any], Out] | ResultFunction[_Child, Out],
        input_key: str = "items",
        output_key: str = "results",
        max_concurrency: int = 10,
        **settings: Unpack[MapSettings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        node_id: str,
        child_node: AsyncFunction[dict[str, Any], Out] | AsyncFunction[_Child, Out],
        input_key: str = "items",
        output_key: str = "results",
        max_concurrency: int = 10,
        **settings: Unpack[MapSettings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        node_id: str,
        child_node: PlainFunction[dict[str, Any], Out] | PlainFunction[_Child, Out],
        input_key: str = "items",
        output_key: str = "results",
        max_concurrency: int = 10,
        **settings: Unpack[MapSettings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        node_id: str,
        child_node: ForeignNode,
        input_key: str = "items",
        output_key: str = "results",
        max_concurrency: int = 10,
        **settings: Unpack[MapSettings],
    ) -> None: ...
    def __init__(
        self,
        node_id: str,
        child_node: NodeLike[Any],
        input_key: str = "items",
        output_key: str = "results",
        max_concurrency: int = 10,
        *,
        continue_on_error: bool = True,
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(node_id, "map", name, config)
        self.input_key = input_key
        self.output_key = output_key
        self._processor: _PartProcessor[Any, Any] = _PartProcessor(
            child_node, max_concurrency, continue_on_error, name=node_id
        )

    @property
    def continue_on_error(self) -> bool:
        """True to run the other items after a failure. A change applies from the next `execute` on."""
        return self._processor.continue_on_error

    @continue_on_error.setter
    def continue_on_error(self, continue_on_error: bool) -> None:
        self._processor.continue_on_error = continue_on_error

    @property
    def child_node(self) -> BaseNode:
        """The node that runs for each item. A change applies from the next `execute` on."""
        return self._processor.node

    @child_node.setter
    def child_node(self, child_node: NodeLike[dict[str, Any]]) -> None:
        self._processor = _PartProcessor(child_node, self.max_concurrency, self.continue_on_error, name=self.node_id)

    @property
    def max_concurrency(self) -> int:
        """Most items that may run at once. A change also applies to a running `execute`."""
        return self._processor.max_concurrency

    @max_concurrency.setter
    def max_concurrency(self, max_concurrency: int) -> None:
        self._processor.set_max_concurrency(max_concurrency)

    async def execute(
        self, node_context: NodeContext[Mapping[str, Any]], workflow_context: WorkflowContext
    ) -> NodeResult[MapOutput[Out]]:
        """Run the child over all items.

        Returns:
            `{output_key: [...], "total", "succeeded", "failed"}`; after failures `success` is False, the output keeps
            the successes and `metadata["errors"]` lists `{index, error}`.
        """
        items = items_of(node_context, self.input_key)
        if isinstance(items, NodeResult):
            return items
        errors: list[dict[str, Any]] = []
        outputs: dict[int, Any] = {}
        total = 0
        stopped: str | None = None
        failure: BatchResult | None = None  # the first one, which may have stopped the batch
        listed = False  # the exception that stopped the batch is that of the first failure

        def take(result: BatchResult) -> None:
            nonlocal total, failure
            total += 1
            status = result.status
            if status == "ok" or status == "resumed":  # `success` would be one more call for each item
                outputs[result.index] = result.output
            elif status != "cancelled":
                errors.append({"index": result.index, "error": result.error})
                failure = result if failure is None else failure

        try:
            run = self._processor.start(items, workflow_context, take)
        except Exception as exc:  # the source's, whose iteration cannot start
            return self._result(False, outputs, errors, total, f"stopped by {type(exc).__name__}: {error_text(exc)}")
        try:
            await run.join()
            if run.interruption is not None:
                await run.raise_if_interrupted(BatchResults(name=self.node_id, batch=run.batch))
        except ItemFailedError as exc:
            stopped, listed = error_text(exc), exc.result is failure
        except Exception as exc:  # the exception of a failed item or of the source
            stopped = f"stopped by {type(exc).__name__}: {error_text(exc)}"
            listed = failure is not None and exc is failure.exception
        failure = None  # its exception's traceback holds this frame
        if run.unstarted is not None:
            total += len(run.unstarted.inputs)
        return self._result(run.batch.status == "ok", outputs, errors, total, None if listed else stopped)

    def _result(
        self, ok: bool, outputs: dict[int, Any], errors: list[dict[str, Any]], total: int, stopped: str | None
    ) -> NodeResult[MapOutput[Out]]:
        """Make the result of a run: outputs aligned with the items, counts, and errors."""
        output: Any = {
            self.output_key: [outputs.get(index) for index in range(total)],
            "total": total,
            "succeeded": len(outputs),
            "failed": total - len(outputs),
        }
        if ok:
            return NodeResult(True, output)
        errors.sort(key=lambda entry: entry["index"])
        if not errors:
            return failed(stopped or _CUT_SHORT, {"errors": errors}, output)
        first = f"item {errors[0]['index']}: {errors[0]['error']}"
        message = f"{total - len(outputs)} of {total} items did not succeed; the first: {first}"
        if stopped is not None:
            message += f"; {stopped}"
        return failed(message, {"errors": errors}, output)
