"""Tail sampling: decides when an item ends whether its trace is kept, and buffers the spans under it until then."""

from __future__ import annotations

import threading
from random import random
from typing import Any

from flowrt.model import ItemRecord
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.options import TailSampling

__all__ = ["SpanBuffer", "is_wanted"]


def is_wanted(item: ItemRecord, policy: TailSampling) -> bool:
    """True if an ended item's trace is kept: it failed, was retried, was slow, or is in the random share."""
    if item.attempts > 1 or item.status not in ("ok", "resumed"):
        return True
    if policy.slow is not None and item.finished_ns - item.pulled_ns >= policy.slow * 1e9:
        return True
    return random() < policy.share  # noqa: S311  # nothing secret


class _Buffered:
    """Spans that wait for one item's end."""

    __slots__ = ("ids", "spans")

    def __init__(self, span_id: int) -> None:
        self.ids = [span_id]
        self.spans: list[Any] = []


class SpanBuffer:
    """Buffer of ended spans under items that have not ended.

    Args:
        most_spans: Limit of buffered spans. Spans over it are dropped and counted.
    """

    def __init__(self, most_spans: int) -> None:
        self.most_spans = most_spans
        self._by_id: dict[int, _Buffered] = {}  # by the id of the item's span and of each span under it
        self._count = 0
        self._lock = threading.Lock()  # spans of instrumented clients may end in any thread

    def open(self, item_span_id: int) -> None:
        """Start buffering the spans under an item."""
        self._by_id[item_span_id] = _Buffered(item_span_id)

    def start(self, span_id: int, parent_id: int) -> None:
        """Register a span that started under another one."""
        with self._lock:
            buffered = self._by_id.get(parent_id)
            if buffered is not None:
                self._by_id[span_id] = buffered
                buffered.ids.append(span_id)

    def take(self, span_id: int, span: Any) -> bool:
        """Buffer a finished span until its item span ends.

        Returns:
            False if the span is not under an active item.
        """
        with self._lock:
            buffered = self._by_id.get(span_id)
            if buffered is None:
                return False
            if self._count >= self.most_spans:
                METRICS.dropped("spans", "queue_full")
            else:
                self._count += 1
                buffered.spans.append(span)
        return True

    def close(self, item_span_id: int) -> list[Any]:
        """Remove an ended item and return the spans buffered under it."""
        with self._lock:
            buffered = self._by_id[item_span_id]
            for span_id in buffered.ids:
                del self._by_id[span_id]
            self._count -= len(buffered.spans)
        return buffered.spans

    def __len__(self) -> int:
        return self._count
