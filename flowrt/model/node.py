"""Nodes, the contexts that they receive, and the results that they return."""

from __future__ import annotations

import asyncio
import functools
import inspect
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, Generic, cast, overload

from flowrt.errors import error_text
from flowrt.model.type_variables import In, In_co, In_contra, Out, Out_co

__all__ = [
    "NEVER_RUN",
    "AsyncFunction",
    "BaseNode",
    "FunctionNode",
    "NodeContext",
    "NodeResult",
    "PlainFunction",
    "ResultFunction",
    "WorkflowContext",
    "check_returns",
    "contained",
    "failed",
    "is_async",
    "refuse_output",
]

_MISSING: Final[Any] = object()

NEVER_RUN: Final = {
    GeneratorType: "a generator",
    AsyncGeneratorType: "an async generator",
    CoroutineType: "a coroutine",
}
"""Types of outputs whose code would never run, each with its name in an error message."""


class NodeResult(Generic[Out_co]):
    """Result of one attempt, returned by a node. `NodeResult[Out]` has an output of type `Out`, or None if it failed.

    Args:
        success: Whether the item succeeded.
        output: Any value, including falsy ones (`{}`, `0`, `[]`).
        error: Cause of the failure: a message or an exception.
        metadata: Values for `BatchResult.metadata`.
        next_node_id: Id of the next node, for workflow engines; a batch ignores it.
    """

    __slots__ = ("_metadata", "error", "next_node_id", "output", "success")

    def __init__(
        self,
        success: bool,
        output: Out_co | None = None,
        *,
        error: str | BaseException | None = None,
        metadata: dict[str, Any] | None = None,
        next_node_id: str | None = None,
    ) -> None:
        self.success = success
        self.output = output
        self.error = error
        self._metadata = metadata
        self.next_node_id = next_node_id

    @property
    def metadata(self) -> dict[str, Any]:
        """Values for `BatchResult.metadata`; created at the first access."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: dict[str, Any] | None) -> None:
        self._metadata = metadata

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeResult):
            return NotImplemented
        return (self.success, self.output, self.error, self.metadata, self.next_node_id) == (
            other.success,
            other.output,
            other.error,
            other.metadata,
            other.next_node_id,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        what = f"output={self.output!r}" if self.success else f"error={self.error!r}"
        return f"NodeResult(success={self.success!r}, {what})"


class NodeContext(Generic[In_co]):
    """Context of one attempt at one item, passed to the node; `NodeContext[In]` has an `input_data` of type `In`.

    Args:
        node_id: Id of the node.
        node_type: Type of the node.
        input_data: The item; plain containers (dict, list, set, tuple) in it are copies for this attempt.
        index: The item's index in the batch, or None outside a batch.
        attempt: Number of the attempt, from 1.
        batch_id: Id of the batch's run, or None outside a batch.
    """

    __slots__ = ("_variables", "attempt", "batch_id", "index", "input_data", "node_id", "node_type")

    _variables: dict[str, Any]
    input_data: In_co

    def __init__(
        self,
        node_id: str,
        node_type: str,
        input_data: In_co = _MISSING,
        *,
        index: int | None = None,
        attempt: int = 1,
        batch_id: str | None = None,
    ) -> None:
        self.node_id = node_id
        self.node_type = node_type
        self.input_data = cast("In_co", {}) if input_data is _MISSING else input_data
        self.index = index
        self.attempt = attempt
        self.batch_id = batch_id

    @property
    def variables(self) -> dict[str, Any]:
        """Values that the node keeps for one attempt; created at the first access."""
        if not hasattr(self, "_variables"):
            self._variables = {}
        return self._variables

    @variables.setter
    def variables(self, variables: dict[str, Any]) -> None:
        self._variables = variables

    def get_variable(self, key: str, default: Any = None) -> Any:
        """Return a variable's value, or `default`."""
        return self.variables.get(key, default)

    def set_variable(self, key: str, value: Any) -> None:
        """Set a variable of this attempt."""
        self.variables[key] = value

    def get_input(self, key: Any, default: Any = None) -> Any:
        """Return the input's value under `key`, or `default` if it has none or is not a mapping."""
        data = self.input_data
        return data.get(key, default) if isinstance(data, Mapping) else default

    def __repr__(self) -> str:
        return f"NodeContext({self.node_id!r}, {self.node_type!r}, {self.input_data!r}, index={self.index})"


class WorkflowContext:
    """Context that the nodes of one workflow share; one object for all items of a batch.

    Args:
        workflow_id: Id of the workflow; random by default.
        global_variables: Values that every node can read and set.
    """

    __slots__ = ("__dict__", "__weakref__", "_workflow_id", "global_variables")

    def __init__(self, workflow_id: str | None = None, *, global_variables: dict[str, Any] | None = None) -> None:
        self._workflow_id = workflow_id
        self.global_variables: dict[str, Any] = {} if global_variables is None else global_variables

    @property
    def workflow_id(self) -> str:
        """Id of the workflow; a random id is made at the first access."""
        if self._workflow_id is None:
            self._workflow_id = str(uuid.uuid4())
        return self._workflow_id

    @workflow_id.setter
    def workflow_id(self, workflow_id: str) -> None:
        self._workflow_id = workflow_id

    def get_global_variable(self, key: str, default: Any = None) -> Any:
        """Return the variable's value, or `default`."""
        return self.global_variables.get(key, default)

    def set_global_variable(self, key: str, value: Any) -> None:
        """Set a variable for every node of the workflow."""
        self.global_variables[key] = value

    def __repr__(self) -> str:
        return f"WorkflowContext({self.workflow_id!r}, {self.global_variables!r})"


class BaseNode(ABC, Generic[In_contra, Out_co]):
    """A unit of work. Subclass it and implement `execute`, as an `async def` or, for work that blocks, a `def`.

    A `def execute` runs in a worker thread, so it never blocks the loop. `class Fetch(BaseNode[str, dict[str, Any]])`
    declares the types of its items and outputs for a type checker; without type arguments both are `Any`.

    Args:
        node_id: Name of the node on spans, metrics and logs, where it must have few different values.
        node_type: Kind of the node.
        name: Name for people; the node_id by default.
        config: The node's own settings.

    Raises:
        ValueError: `node_id` is not a non-empty string.
    """

    def __init__(
        self,
        node_id: str,
        node_type: str = "node",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(node_id, str) or not node_id:
            raise ValueError(f"node_id must be a non-empty string, not {node_id!r}")
        self.node_id = node_id
        self.node_type = node_type
        self.name = node_id if name is None else name
        self.config: dict[str, Any] = {} if config is None else config

    @abstractmethod
    async def execute(
        self, node_context: NodeContext[In_contra], workflow_context: WorkflowContext
    ) -> NodeResult[Out_co]:
        """Do the work for one item.

        Args:
            node_context: The item, and where the attempt belongs in the batch.
            workflow_context: The context that the workflow's nodes share.

        Returns:
            A NodeResult. A value of another type fails the item, and so does an exception.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'node_id', '(not initialised)')!r}>"


ResultFunction = Callable[[In], Coroutine[Any, Any, NodeResult[Out]] | NodeResult[Out]]
"""Function of an item that returns a NodeResult itself."""

AsyncFunction = Callable[[In], Coroutine[Any, Any, Out]]
"""Async function of an item."""

PlainFunction = Callable[[In], Out]
"""Plain `def` of an item. A type checker accepts async functions too, so overloads name this one last."""


class FunctionNode(BaseNode[In, Out]):
    """A node made of a function of one argument, the item.

    The function's value is the output, or a NodeResult. An exception fails the item. A plain `def` runs in a worker
    thread.

    Args:
        fn: `async def fn(item)` or `def fn(item)`, a partial, or an object with such a `__call__`.
        node_id: Name of the node; the function's name by default.
        node_type: Kind of the node.
        name: Name for people; the node_id by default.
        config: The node's own settings.

    Raises:
        TypeError: `fn` is not callable, or is a generator function.
        ValueError: `node_id` is not a non-empty string.
    """

    @overload
    def __init__(
        self,
        fn: ResultFunction[In, Out],
        node_id: str | None = None,
        node_type: str = "function",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        fn: AsyncFunction[In, Out],
        node_id: str | None = None,
        node_type: str = "function",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        fn: PlainFunction[In, Out],
        node_id: str | None = None,
        node_type: str = "function",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        fn: Callable[[Any], Any],
        node_id: str | None = None,
        node_type: str = "function",
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"FunctionNode needs a function of one argument, not {fn!r}")
        check_returns(fn, _name_of(fn))
        super().__init__(_name_of(fn) if node_id is None else node_id, node_type, name, config)
        self.fn = fn
        self.is_async = is_async(fn)

    async def execute(self, node_context: NodeContext[In], workflow_context: WorkflowContext) -> NodeResult[Out]:
        """Call the function with the item."""
        if self.is_async:
            value = await self.fn(node_context.input_data)
            return value if isinstance(value, NodeResult) else NodeResult(True, value)
        result = await asyncio.to_thread(contained, self.call, node_context, workflow_context)
        return result if isinstance(result, NodeResult) else await result

    def call(
        self,
        node_context: NodeContext[In],
        workflow_context: WorkflowContext,  # noqa: ARG002  # the signature is execute's
    ) -> NodeResult[Out] | Awaitable[NodeResult[Out]]:
        """Call a plain `def` in the calling thread. Executors use this method in their own threads."""
        value = self.fn(node_context.input_data)
        if isinstance(value, NodeResult):
            return value
        return _awaited(value) if inspect.isawaitable(value) else NodeResult(True, value)


async def _awaited(value: Awaitable[Any]) -> NodeResult:
    result = await value
    return result if isinstance(result, NodeResult) else NodeResult(True, result)


def check_returns(fn: Any, name: str) -> None:
    """Check that a function is not a generator function, whose body would not run although items would end ok.

    Raises:
        TypeError: `fn` is a generator function or an async generator function.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    call = fn if inspect.isroutine(fn) else getattr(type(fn), "__call__", fn)  # noqa: B004  # the method itself
    for kind, yields in (
        ("an async generator function", inspect.isasyncgenfunction),
        ("a generator function", inspect.isgeneratorfunction),
    ):
        if yields(fn) or yields(call):
            raise TypeError(
                f"{name} is {kind}: calling it runs none of its body; return a value (a list, for instance) instead "
                "of yielding"
            )


def is_async(fn: Any) -> bool:
    """Return whether `fn` is a coroutine function, also as a partial, a method or an object's `__call__`."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.iscoroutinefunction(fn):
        return True
    call = getattr(type(fn), "__call__", None)  # noqa: B004  # the method itself is wanted, not callability
    return not inspect.isroutine(fn) and inspect.iscoroutinefunction(call)


def _name_of(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return "lambda" if name == "<lambda>" else str(name)


def contained(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, and raise its StopIteration as RuntimeError, since a future cannot hold a StopIteration."""
    try:
        return call(*arguments)
    except StopIteration as exc:
        raise RuntimeError("the node raised StopIteration") from exc


def refuse_output(node_id: str, output: Any) -> TypeError:
    """Return the error of a node whose output has a type of `NEVER_RUN`. Closes a coroutine."""
    kind = type(output)
    hint = "await it" if kind is CoroutineType else "return list(...) of it, or consume it in the node"
    name = getattr(output, "__qualname__", "")
    if kind is CoroutineType:
        output.close()  # else Python warns that it was never awaited
    return TypeError(f"node {node_id!r} returned {NEVER_RUN[kind]} ({name}), whose body has not run: {hint}")


def failed(error: str | BaseException, metadata: dict[str, Any] | None = None, output: Any = None) -> NodeResult:
    """Return a failed NodeResult whose error is a non-empty message."""
    return NodeResult(False, output, error=error_text(error), metadata=metadata)
