"""The items that took longest, with the ids of their traces."""

from __future__ import annotations

import heapq
from typing import Any

from flowrt.model import BatchResult

__all__ = ["Slowest"]


class Slowest:
    """Keeps the items that took longest from being pulled to their end.

    Args:
        most: How many are kept.

    Attributes:
        bar_ns: Offer only items that took longer than this, in nanoseconds.
    """

    __slots__ = ("_heap", "_most", "bar_ns")

    def __init__(self, most: int = 50) -> None:
        self._most = most
        self._heap: list[tuple[int, int, dict[str, Any]]] = []
        self.bar_ns = -1

    def offer(self, item: BatchResult, duration_ns: int, at_ns: int) -> None:
        """Keep an item, in place of the quickest of those kept where there are enough.

        Args:
            item: It has ended.
            duration_ns: From being pulled to its end.
            at_ns: When it ended, in nanoseconds from the batch's start.
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
        """Those kept, the slowest first."""
        return [entry for _, _, entry in sorted(self._heap, key=lambda kept: (-kept[0], kept[1]))]
