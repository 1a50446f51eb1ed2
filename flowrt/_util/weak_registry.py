"""What is under way: begun and ended by any loop's thread, looked through by any other meanwhile."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["WeakRegistry"]

T = TypeVar("T")


class WeakRegistry(Generic[T]):
    """What has begun and not ended, oldest first; what never ends is not kept alive by it.

    A `WeakSet` is looked through in Python, between whose steps another thread may change it; here each step is one
    call into C.
    """

    def __init__(self) -> None:
        self._by_id: weakref.WeakValueDictionary[int, T] = weakref.WeakValueDictionary()

    def add(self, one: T) -> None:
        """It begins."""
        self._by_id[id(one)] = one

    def discard(self, one: T) -> None:
        """It has ended, if it had begun."""
        self._by_id.pop(id(one), None)

    def __iter__(self) -> Iterator[T]:
        """What is under way at this moment."""
        return iter([one for ref in self._by_id.valuerefs() if (one := ref()) is not None])
