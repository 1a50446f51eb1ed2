"""Exemplars: for each bucket of a duration histogram, the trace of an item in it."""

from __future__ import annotations

from functools import lru_cache
from time import perf_counter_ns
from typing import Final, NamedTuple

from flowrt._util.clock import Clock
from flowrt.model import ItemRecord, UnexportedIds

__all__ = ["Exemplar", "Exemplars"]

_KEEP_NS: Final = 1_000_000_000  # scrapes are seconds apart: an exemplar per item would be wasted work


class Exemplar(NamedTuple):
    """Trace of one item.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        value_s: The item's duration, in seconds.
        at_s: Time at which the item ended, in seconds since 1970.
    """

    trace_id: str
    span_id: str
    value_s: float
    at_s: float


@lru_cache(maxsize=64)
def _nothing(buckets: int) -> tuple[list[int], list[Exemplar | None]]:
    """Return `due_ns` and `latest` without exemplars, shared by the shards of small batches, which have none."""
    return [0] * buckets, [None] * buckets


class Exemplars:
    """Latest exemplar of each bucket, replaced at most once per second.

    Args:
        buckets: Number of buckets.

    Attributes:
        due_ns: Per bucket, the time from which its exemplar may be replaced, on the batch's clock.
        latest: Per bucket, its exemplar.
    """

    __slots__ = ("_real", "_taken", "due_ns", "latest")

    def __init__(self, buckets: int) -> None:
        self.due_ns, self.latest = _nothing(buckets)
        self._taken = False  # True if any was taken, and the lists are this object's own
        self._real = True  # False if `due_ns` is by the clock of a loop of virtual time

    def begin(self, clock: Clock) -> None:
        """Prepare for a batch. If the batch has another clock, as in virtual time, all exemplars may be replaced.

        Args:
            clock: The batch's clock.
        """
        real = clock is perf_counter_ns
        if self._taken and not (real and self._real):
            self._taken = False
            self.due_ns, _ = _nothing(len(self.due_ns))
        self._real = real

    def take(self, bucket: int, item: ItemRecord) -> None:
        """Make the item's trace its bucket's exemplar, if the trace will be exported."""
        trace_id, span_id = item.trace_id, item.span_id
        if trace_id is None or span_id is None or isinstance(item.trace, UnexportedIds):
            return
        if not self._taken:
            self._taken = True
            self.due_ns, self.latest = self.due_ns.copy(), self.latest.copy()
        self.due_ns[bucket] = item.finished_ns + _KEEP_NS
        at_s = (item.finished_ns + item.batch.epoch_offset_ns) / 1e9
        self.latest[bucket] = Exemplar(trace_id, span_id, (item.finished_ns - item.pulled_ns) / 1e9, at_s)
