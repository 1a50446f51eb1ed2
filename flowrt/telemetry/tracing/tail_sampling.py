"""Tail sampling: which traces are worth keeping is decided when their item has ended."""

from __future__ import annotations

import threading
from random import random
from typing import Any

from flowrt.model import ItemRecord
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.options import TailSampling

__all__ = ["SpanBuffer", "is_wanted"]


def is_wanted(item: ItemRecord, policy: TailSampling) -> bool:
    """Whether an ended item's trace is kept: it went wrong, was retried, was slow, or is of the share kept anyway."""
    if item.attempts > 1 or item.status not in ("ok", "resumed"):
        return True
    if policy.slow is not None and item.finished_ns - item.pulled_ns >= policy.slow * 1e9:
        return True
    return random() < policy.share  # noqa: S311  # nothing secret


class _Held:
    """What waits for one item's end."""

    __slots__ = ("ids", "spans")

    def __init__(self, span_id: int) -> None:
        self.ids = [span_id]
        self.spans: list[Any] = []


class SpanBuffer:
    """The ended spans under items that have not ended.

    Args:
        most_spans: How many may wait; further ones are dropped and counted.
    """

    def __init__(self, most_spans: int) -> None:
        self.most_spans = most_spans
        self._by_id: dict[int, _Held] = {}  # of an item's span and of all under it
        self._count = 0
        self._lock = threading.Lock()  # spans of instrumented clients end in any thread

    def open(self, item_span_id: int) -> None:
        """An item has begun."""
        self._by_id[item_span_id] = _Held(item_span_id)

    def start(self, span_id: int, parent_id: int) -> None:
        """A span has begun under another."""
        with self._lock:
            held = self._by_id.get(parent_id)
            if held is not None:
                self._by_id[span_id] = held
                held.ids.append(span_id)

    def take(self, span_id: int, span: Any) -> bool:
        """Hold a span that has ended, if it stands under an item that has not."""
        with self._lock:
            held = self._by_id.get(span_id)
            if held is None:
                return False
            if self._count >= self.most_spans:
                METRICS.dropped("spans", "queue_full")
            else:
                self._count += 1
                held.spans.append(span)
        return True

    def close(self, item_span_id: int) -> list[Any]:
        """The item has ended: give what stands under it."""
        with self._lock:
            held = self._by_id[item_span_id]
            for span_id in held.ids:
                del self._by_id[span_id]
            self._count -= len(held.spans)
        return held.spans

    def __len__(self) -> int:
        return self._count
