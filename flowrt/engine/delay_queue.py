"""Items that wait for their next attempt, without a slot."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from flowrt._util.validation import check_count

__all__ = ["DelayQueue"]

T = TypeVar("T")


class DelayQueue(Generic[T]):
    """The items in backoff, the one that is due first at hand.

    Args:
        bound: How many may wait; `full` says when no new item must be begun, because it might join them.

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
        """As many wait as may."""
        return len(self._heap) >= self.bound

    @property
    def due_ns(self) -> int | None:
        """When the first of them is due, or None where none waits."""
        return self._heap[0][0] if self._heap else None

    def push(self, due_ns: int, item: T) -> None:
        """Let an item wait until `due_ns`; it is taken even when full, since it has nowhere else to go."""
        self._pushed += 1
        heapq.heappush(self._heap, (due_ns, self._pushed, item))

    def pop(self, now_ns: int) -> T | None:
        """Take the item that has been due longest, or None where none is due; of equals the first that came."""
        if not self._heap or self._heap[0][0] > now_ns:
            return None
        return heapq.heappop(self._heap)[2]

    def drain(self) -> list[T]:
        """Take all that wait, due or not, in the order in which they are due: the batch is being stopped."""
        items = [item for _, _, item in sorted(self._heap, key=lambda entry: entry[:2])]
        self._heap.clear()
        return items

    def __len__(self) -> int:
        return len(self._heap)

    def __repr__(self) -> str:
        return f"<DelayQueue: {len(self._heap)} of {self.bound} waiting>"
