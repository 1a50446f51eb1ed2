"""Input isolation: each attempt gets its own copy of the item's input."""

from __future__ import annotations

import copy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from gc import is_tracked
from types import NoneType
from typing import Any, Final
from uuid import UUID

__all__ = ["isolate"]

_ATOMS: Final = frozenset(
    {NoneType, bool, int, float, complex, str, bytes, date, datetime, time, timedelta, Decimal, UUID}
)


def isolate(value: Any) -> Any:
    """Copy plain containers (dict, list, set, tuple) at all levels; share all other objects.

    Objects of other classes may be connections or models that must not be copied; a node that changes such an object
    changes the caller's.

    Args:
        value: An input of any type.
    """
    kind = type(value)
    if kind is dict:
        if not is_tracked(value):  # the garbage collector does not track a dict that holds no containers
            return value.copy()
    elif kind in _ATOMS:
        return value
    try:
        return _copied(value)
    except RecursionError:  # cyclic, or nested beyond the stack
        try:
            return copy.deepcopy(value)
        except RecursionError:
            return value


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    if kind is list:
        return [_copied(item) for item in value]
    if kind is tuple:
        return tuple([_copied(item) for item in value])
    if kind is set:
        return value.copy()  # its members are hashable, so not containers that could be changed
    return value
