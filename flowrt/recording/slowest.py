"""Collects the slowest items of a batch, with their trace ids."""

from __future__ import annotations

import heapq
from typing import Any

from flowrt.model import BatchResult

__all__ = ["Slowest"]


class Slowest:
    """Bounded collection of the items with the longest time from pulled to ended.

    Args:
        most: Number of items to keep.

    Attributes:
        bar_ns: Duration that an item must exceed to be offered, in nanoseconds.
    """

    __slots__ = ("_heap", "_most", "bar_ns")

    def __init__(self, most: int = 50) -> None:
        self._most = most
        self._heap: list[tuple[int, int, dict[str, Any]]] = []
        self.bar_ns = -1

    def offer(self, item: BatchResult, duration_ns: int, at_ns: int) -> None:
        """Keep an item. If the collection is full, the item replaces the fastest one.

        Args:
            item: The ended item.
            duration_ns: Time from pulled to ended, in nanoseconds.
            at_ns: Time of its end from the batch's start, in nanoseconds.
        """
        entry = (
            duration_ns,
            item.index,
            {
                "index": item.index,
                "duration_ns": duration_ns,
                "service_ns": round(item.execution_time * 1e9),
                "at_ns": at_ns,
                "status": item.status,
                "attempts": item.attempts,
                "trace_id": item.trace_id,
            },
        )
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heapreplace(self._heap, entry)
        if len(self._heap) == self._most:
            self.bar_ns = self._heap[0][0]

    def ranked(self) -> list[dict[str, Any]]:
        """The kept items, slowest first."""
        return [entry for _, _, entry in sorted(self._heap, key=lambda kept: (-kept[0], kept[1]))]
