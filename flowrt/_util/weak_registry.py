"""Registry of active objects. Any thread may add, remove or iterate at any time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

__all__ = ["WeakRegistry"]

T = TypeVar("T")

_FIRST_SWEEP: Final = 64  # references; the next sweep is at twice as many as are left


class WeakRegistry(Generic[T]):
    """Active objects in the order of their start, held weakly.

    A `WeakSet` iterates in Python, so another thread may change it between two steps. Here, each step is one call
    into C, which also makes adding and removing cheap enough for every batch. Objects are compared by `==`, so their
    class should not define `__eq__`.
    """

    __slots__ = ("_refs", "_sweep_at")

    def __init__(self) -> None:
        # An object has one reference without a callback, which all its holders share. A callback would remove a dead
        # reference at once, and would need a second reference: one more object of each batch for the garbage collector.
        self._refs = dict[weakref.ref[T], None]()
        self._sweep_at = _FIRST_SWEEP

    def add(self, one: T) -> None:
        """Add an object that becomes active."""
        self._refs[weakref.ref(one)] = None
        if len(self._refs) >= self._sweep_at:
            self._sweep()

    def discard(self, one: T) -> None:
        """Remove an object; do nothing if it is not registered."""
        self._refs.pop(weakref.ref(one), None)

    def __iter__(self) -> Iterator[T]:
        """Iterate over a snapshot of the active objects."""
        return iter([one for ref in list(self._refs) if (one := ref()) is not None])

    def _sweep(self) -> None:
        """Drop references to objects that are gone without having been removed."""
        for ref in list(self._refs):
            if ref() is None:
                self._refs.pop(ref, None)
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._refs))
