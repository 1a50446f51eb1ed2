"""Input isolation: each attempt gets its own copy of the item's input."""

from __future__ import annotations

from collections.abc import Generator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from gc import is_tracked
from types import NoneType
from typing import Any, Final
from uuid import UUID

__all__ = ["ATOMS", "isolate"]

ATOMS: Final[frozenset[type]] = frozenset(
    {NoneType, bool, int, float, complex, str, bytes, date, datetime, time, timedelta, Decimal, UUID}
)
"""Types of immutable values, which are shared and not copied."""

_CONTAINERS: Final = frozenset({dict, list, set, tuple})

Memo = dict[int, Any]
"""Copies by the id of their original; the input keeps the originals alive, so ids are not reused."""


def isolate(value: Any) -> Any:
    """Copy plain containers (dict, list, set, tuple) at any depth; share all other objects.

    Objects of other classes may be connections or models, which must not be copied, so a node that changes such an
    object changes the caller's object. A container that the input holds several times, or that holds itself, is copied
    once.

    Args:
        value: An input of any type.

    Returns:
        The copy, or the value itself if it is of another type.
    """
    kind = type(value)
    if kind is dict:
        if not is_tracked(value):  # the garbage collector does not track a dict that holds no containers
            return value.copy()
    elif kind in ATOMS:
        return value
    elif kind is list and ATOMS.issuperset(map(type, value)):
        return value.copy()
    memo: Memo = {}
    try:
        if kind is dict:  # the most common input, here without a call and an entry of the memo
            return {key: item if type(item) in ATOMS else _copied(item, memo) for key, item in value.items()}
        return _copied(value, memo)
    except RecursionError:  # the input contains itself, or is nested too deeply for the stack
        return _copied_without_recursion(value)


def _copied(value: Any, memo: Memo) -> Any:
    # A copy enters the memo only when it is complete, which allows fast comprehensions; a cycle ends in RecursionError.
    kind = type(value)
    copy: Any
    if kind is dict:
        if (original := id(value)) in memo:
            return memo[original]
        if is_tracked(value):
            copy = {key: item if type(item) in ATOMS else _copied(item, memo) for key, item in value.items()}
        else:
            copy = value.copy()
    elif kind is list:
        if (original := id(value)) in memo:
            return memo[original]
        copy = [item if type(item) in ATOMS else _copied(item, memo) for item in value]
    elif kind is tuple:
        if (original := id(value)) in memo:
            return memo[original]
        copy = tuple([item if type(item) in ATOMS else _copied(item, memo) for item in value])
    elif kind is set:
        if (original := id(value)) in memo:
            return memo[original]
        copy = value.copy()  # its members are hashable, so none is a container that a node could change
    else:
        return value
    memo[original] = copy
    return copy


def _copied_without_recursion(value: Any) -> Any:
    memo: Memo = {}
    stack = [_steps(value, memo)]
    copy: Any = None
    while stack:
        try:
            item = stack[-1].send(copy)
        except StopIteration as done:
            copy = done.value
            stack.pop()
        else:
            copy = None
            stack.append(_steps(item, memo))
    return copy


def _steps(value: Any, memo: Memo) -> Generator[Any, Any, Any]:
    """Yield each part of a value, receive its copy, and return the copy of the value."""
    kind = type(value)
    if kind not in _CONTAINERS:
        return value
    original = id(value)
    if original in memo:
        return memo[original]
    if kind is tuple:
        items: list[Any] = []
        for item in value:
            part = yield item
            items.append(part)
        return memo.setdefault(original, tuple(items))  # a tuple that contains itself is in the memo by now
    memo[original] = copy = value.copy()
    if kind is not set:
        for place, item in value.items() if kind is dict else enumerate(value):
            copy[place] = yield item
    return copy
