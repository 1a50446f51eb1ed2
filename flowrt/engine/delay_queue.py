"""Delay queue: items in backoff, ordered by when their next attempt is due."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from flowrt._util.validation import check_count

__all__ = ["DelayQueue"]

T = TypeVar("T")


class DelayQueue(Generic[T]):
    """Priority queue of items by due time.

    Args:
        bound: Number of items at which the queue is `full`. The batch then starts no new item, which might fail too.

    Raises:
        ValueError: `bound` is not an integer of at least 1.

    Example:
        >>> backoff = DelayQueue(bound=2)
        >>> backoff.push(300, "late")
        >>> backoff.push(200, "early")
        >>> backoff.full, backoff.due_ns, backoff.pop(now_ns=250), backoff.pop(now_ns=250)
        (True, 200, 'early', None)
    """

    __slots__ = ("_heap", "_pushed", "bound")

    def __init__(self, bound: int) -> None:
        self.bound = check_count("bound", bound)
        self._heap: list[tuple[int, int, T]] = []
        self._pushed = 0

    @property
    def full(self) -> bool:
        """True if the bound is reached."""
        return len(self._heap) >= self.bound

    @property
    def due_ns(self) -> int | None:
        """When the first item is due, or None if the queue is empty."""
        return self._heap[0][0] if self._heap else None

    def push(self, due_ns: int, item: T) -> None:
        """Add an item that waits until `due_ns`. A full queue accepts it too: an item in flight must go somewhere."""
        self._pushed += 1
        heapq.heappush(self._heap, (due_ns, self._pushed, item))

    def pop(self, now_ns: int) -> T | None:
        """Remove and return the item with the earliest due time up to `now_ns`, or None; of equals the first pushed."""
        if not self._heap or self._heap[0][0] > now_ns:
            return None
        return heapq.heappop(self._heap)[2]

    def drain(self) -> list[T]:
        """Remove and return all items in order of due time, for a batch that is being stopped."""
        items = [item for _, _, item in sorted(self._heap, key=lambda entry: entry[:2])]
        self._heap.clear()
        return items

    def __len__(self) -> int:
        return len(self._heap)

    def __repr__(self) -> str:
        return f"<DelayQueue: {len(self._heap)} of {self.bound} waiting>"
