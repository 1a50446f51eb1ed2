"""Registry of active objects. Any thread may add, remove or iterate at any time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["WeakRegistry"]

T = TypeVar("T")


class WeakRegistry(Generic[T]):
    """Active objects in the order of their start, held weakly.

    A `WeakSet` iterates in Python, so another thread may change it between two steps. Here, each step is one call
    into C.
    """

    def __init__(self) -> None:
        self._by_id: weakref.WeakValueDictionary[int, T] = weakref.WeakValueDictionary()

    def add(self, one: T) -> None:
        """Add an object that becomes active."""
        self._by_id[id(one)] = one

    def discard(self, one: T) -> None:
        """Remove an object; do nothing if it is not registered."""
        self._by_id.pop(id(one), None)

    def __iter__(self) -> Iterator[T]:
        """Iterate over a snapshot of the active objects."""
        return iter([one for ref in self._by_id.valuerefs() if (one := ref()) is not None])
