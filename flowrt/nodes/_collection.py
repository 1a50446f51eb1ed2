"""Shared parts of the nodes over collections: input, failures and checks of settings."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any, Final

from flowrt.errors import error_text
from flowrt.model.node import NodeContext, NodeResult, failed

__all__ = ["check_callable", "check_output_key", "each_item", "failed_at", "items_of"]

_MISSING: Final = object()


async def each_item(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def items_of(node_context: NodeContext, key: str) -> Any:
    """Return the collection under the key, or a failed result that explains why there is none."""
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


def failed_at(what: str, index: int, exc: Exception) -> NodeResult:
    result = failed(f"{what} failed at item {index}: {type(exc).__name__}: {error_text(exc)}")
    result.metadata["exception"] = exc
    return result


def check_output_key(key: str, taken: tuple[str, ...]) -> str:
    if key in taken:
        raise ValueError(f"output_key {key!r} is the key of a count in the output ({', '.join(taken)}): choose another")
    return key


def check_callable(name: str, fn: Any) -> Any:
    if not callable(fn):
        raise TypeError(f"{name} must be a function, not {fn!r}")
    return fn
