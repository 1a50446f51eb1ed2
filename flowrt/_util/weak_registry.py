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
    into C, which also makes adding and removing cheap enough for every batch. Objects are compared by `==`, so their
    class should not define `__eq__`.
    """

    __slots__ = ("_forget", "_refs")

    def __init__(self) -> None:
        refs = self._refs = dict[weakref.ref[T], None]()

        def forget(ref: weakref.ref[T]) -> None:
            refs.pop(ref, None)

        self._forget = forget

    def add(self, one: T) -> None:
        """Add an object that becomes active."""
        self._refs[weakref.ref(one, self._forget)] = None

    def discard(self, one: T) -> None:
        """Remove an object; do nothing if it is not registered."""
        self._refs.pop(weakref.ref(one), None)

    def __iter__(self) -> Iterator[T]:
        """Iterate over a snapshot of the active objects."""
        return iter([one for ref in list(self._refs) if (one := ref()) is not None])
