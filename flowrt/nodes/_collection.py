"""Shared parts of the nodes over collections: input, failures and checks of settings."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Self, overload

from flowrt.engine.source import IN_MEMORY
from flowrt.errors import error_text
from flowrt.model.node import NodeContext, NodeResult, failed

__all__ = ["OutputKey", "aclose", "check_callable", "failed_at", "for_each", "items_of"]

_MISSING: Final = object()


class OutputKey:
    """Descriptor of a node's `output_key`, which must not be the key of a count in the output.

    Args:
        counts: The keys of the counts.

    Raises:
        ValueError: On assignment of one of these keys.
    """

    def __init__(self, *counts: str) -> None:
        self._counts = counts

    @overload
    def __get__(self, node: None, owner: type) -> Self: ...
    @overload
    def __get__(self, node: object, owner: type) -> str: ...
    def __get__(self, node: object | None, owner: type) -> Self | str:
        if node is None:
            return self
        key: str = vars(node)["output_key"]
        return key

    def __set__(self, node: object, key: str) -> None:
        if key in self._counts:
            counts = ", ".join(self._counts)
            raise ValueError(f"output_key {key!r} is the key of a count in the output ({counts}): choose another")
        vars(node)["output_key"] = key


async def for_each(
    items: Iterable[Any] | AsyncIterable[Any],
    name: str,
    function: Callable[[Any], Any],
    use: Callable[[Any, Any], None],
) -> int | NodeResult:
    """Call a function for each item, in order, and close an async iterator at the end.

    Args:
        items: The items.
        name: The function's name, for messages.
        function: Called with each item; an awaitable result is awaited.
        use: Called with each item and its result.

    Returns:
        The number of items, or a failed result that names the item at which the function or the source raised.
    """
    count = 0
    iterator: Any = None
    failure: NodeResult | None = None
    try:
        try:
            iterator = aiter(items) if isinstance(items, AsyncIterable) else iter(items)
            advance = _advance_async if isinstance(items, AsyncIterable) else _advance
            while (item := await advance(iterator)) is not _MISSING:
                try:
                    result = function(item)
                    if inspect.isawaitable(result):
                        result = await result
                    use(item, result)
                except Exception as exc:
                    failure = failed_at(name, count, exc)
                    break
                count += 1
        finally:
            await aclose(iterator)
    except Exception as exc:
        if failure is None:
            failure = failed_at("the source of the items", count, exc)
    return count if failure is None else failure


async def _advance_async(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator, _MISSING)


async def _advance(iterator: Iterator[Any]) -> Any:
    return next(iterator, _MISSING)


async def aclose(iterator: Any) -> None:
    """Close an async generator; other iterators need no closing."""
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


def items_of(node_context: NodeContext, key: str) -> Any:
    """Return the collection under the key, or a failed result that explains why there is none."""
    data = node_context.input_data
    if type(data) is not dict and not isinstance(data, Mapping):
        return failed(f"input must be a mapping with the key {key!r}, not {type(data).__name__}")
    items = data.get(key, _MISSING)
    if items is _MISSING:
        keys = ", ".join(repr(k) for k in list(data)[:10]) or "none"
        return failed(f"Input key {key!r} not found; there are: {keys}")
    if isinstance(items, IN_MEMORY):
        return items
    if isinstance(items, (str, bytes, bytearray, Mapping)) or not isinstance(items, (Iterable, AsyncIterable)):
        return failed(f"Input key {key!r} must hold an iterable of items, not {type(items).__name__}")
    return items


def failed_at(what: str, index: int, exc: Exception) -> NodeResult:
    result = failed(f"{what} failed at item {index}: {type(exc).__name__}: {error_text(exc)}")
    result.metadata["exception"] = exc
    return result


def check_callable(name: str, fn: Any) -> Any:
    if not callable(fn):
        raise TypeError(f"{name} must be a function, not {fn!r}")
    return fn
