"""Exemplars: for each bucket of a histogram of durations, a trace that fell into it."""

from __future__ import annotations

from typing import Final, NamedTuple

from flowrt.model import ItemRecord

__all__ = ["Exemplar", "Exemplars"]

_KEEP_NS: Final = 1_000_000_000  # a scrape comes every few seconds: no need for a new one with every item


class Exemplar(NamedTuple):
    """One item's trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        value_s: How long the item took, in seconds.
        at_s: When it ended, in seconds since 1970.
    """

    trace_id: str
    value_s: float
    at_s: float


class Exemplars:
    """The latest exemplar of each bucket, renewed once a second.

    Args:
        buckets: How many there are.

    Attributes:
        due_ns: From when on a bucket wants a new one, by the batch's clock.
        latest: What each bucket has.
    """

    __slots__ = ("due_ns", "latest")

    def __init__(self, buckets: int) -> None:
        self.due_ns = [0] * buckets
        self.latest: list[Exemplar | None] = [None] * buckets

    def take(self, bucket: int, item: ItemRecord) -> None:
        """Keep the item's trace for its bucket, if it will be exported."""
        trace_id = item.trace_id
        if trace_id is None or item.unkept:
            return
        self.due_ns[bucket] = item.finished_ns + _KEEP_NS
        at_s = (item.finished_ns + item.batch.epoch_offset_ns) / 1e9
        self.latest[bucket] = Exemplar(trace_id, (item.finished_ns - item.pulled_ns) / 1e9, at_s)
