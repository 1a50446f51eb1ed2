"""Counting: plain ints on the loop's thread, turned into metric families only when somebody scrapes.

A shard belongs to one (batch, node) pair and one thread, so nothing needs a lock: that thread writes, the scrape
reads. What can be derived at the scrape (totals, attempts, gauges) is not counted per item.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from bisect import bisect_left
from typing import Final, Literal

from flowrt.instrument import Instrument
from flowrt.records import STATUSES, BatchRecord, ItemRecord
from flowrt.telemetry.catalogue import DURATION_BOUNDS_S, LAG_BOUNDS_S, QUEUE_WAIT_BOUNDS_S, RUN_BOUNDS_S
from flowrt.telemetry.lag import heartbeat_of
from flowrt.telemetry.text import label

__all__ = ["METRICS", "OTHER_PAIR", "BatchShard", "Histogram", "MetricsInstrument", "MetricsStore", "Shard"]

OTHER_PAIR: Final = ("_other", "_other")
"""Where items are counted once there are more (batch, node) pairs than the store keeps apart."""

_MOST_PAIRS: Final = 64
_MOST_ERROR_TYPES: Final = 20
_OTHER_ERROR: Final = "_OTHER"
_FAILED_ATTEMPTS: Final = {"failed": "failed", "cancelled": "failed", "timed_out": "timed_out"}

Signal = Literal["spans", "logs", "exemplars", "metrics"]
DropReason = Literal["queue_full", "export_error", "cardinality", "shutdown"]
SIGNALS: Final[tuple[Signal, ...]] = ("spans", "logs", "exemplars", "metrics")
DROP_REASONS: Final[tuple[DropReason, ...]] = ("queue_full", "export_error", "cardinality", "shutdown")


class Histogram:
    """Counts per bucket, over bounds in nanoseconds.

    Args:
        bounds_s: Upper bounds of the buckets in seconds, ascending; one more bucket takes the rest.
    """

    __slots__ = ("bounds_ns", "counts", "sum_ns")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_ns = tuple(round(bound * 1e9) for bound in bounds_s)
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_ns = 0

    def add(self, value_ns: int) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds_ns, value_ns)] += 1
        self.sum_ns += value_ns


class Shard:
    """What one thread counted for one (batch, node) pair.

    Nearly every item is ok at its first attempt and started the moment it was pulled: such an item is counted in
    `swift` alone, which stands for one item ok, its duration, its one attempt and a queue wait of nothing.
    """

    __slots__ = ("attempt", "attempts", "bounds_s", "errors", "failed", "items", "ok", "pair", "queue_wait", "swift")

    def __init__(self, pair: tuple[str, str], bounds_s: tuple[float, ...]) -> None:
        self.pair = pair
        self.bounds_s = bounds_s
        self.swift = Histogram(bounds_s)
        self.items: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.errors: dict[str, int] = {}
        self.attempts = {"ok": 0, "failed": 0, "timed_out": 0}
        self.ok = Histogram(bounds_s)
        self.failed = Histogram(bounds_s)
        self.attempt = Histogram(bounds_s)
        self.queue_wait = Histogram(QUEUE_WAIT_BOUNDS_S)

    def add(self, item: ItemRecord) -> None:
        """Count an item that is not swift."""
        state = item.state
        self.items[state] += 1
        if state != "ok" and state != "resumed":
            self._add_error(item.error_type or "unknown")
        if item.attempts:
            held_ns = item.finished_ns - item.pulled_ns
            (self.ok if state == "ok" else self.failed).add(held_ns)
            self.attempts[_FAILED_ATTEMPTS.get(state, "ok")] += 1
            self.attempt.add(item.finished_ns - item.started_ns)
            self.queue_wait.add(item.started_ns - item.pulled_ns)

    def _add_error(self, error_type: str) -> None:
        errors = self.errors
        if error_type not in errors:
            error_type = label(error_type)
            if error_type not in errors and len(errors) >= _MOST_ERROR_TYPES:
                error_type = _OTHER_ERROR
        errors[error_type] = errors.get(error_type, 0) + 1


class BatchShard:
    """What is counted per batch name, once per batch."""

    __slots__ = ("duration", "ended", "last_completion_s", "last_success_s", "speedup", "unaccounted")

    def __init__(self) -> None:
        self.ended = {"ok": 0, "failed": 0, "cancelled": 0}
        self.duration = Histogram(RUN_BOUNDS_S)
        self.last_success_s = 0.0
        self.last_completion_s = 0.0
        self.speedup = 0.0
        self.unaccounted = 0


class MetricsStore:
    """Everything counted in this process."""

    def __init__(self) -> None:
        self.shards: dict[tuple[str, str], dict[int, Shard]] = {}
        self.limits: dict[tuple[str, str], int] = {}
        self.batches: dict[str, BatchShard] = {}
        self.active: weakref.WeakSet[BatchRecord] = weakref.WeakSet()
        self.lag = Histogram(LAG_BOUNDS_S)
        self.stalls: dict[str, int] = {}
        self.drops: dict[tuple[Signal, DropReason], int] = {(s, r): 0 for s in SIGNALS for r in DROP_REASONS}
        self.loop_name = "none"
        self._lock = threading.Lock()

    def declare(self, batch: str, node: str, limit: int) -> tuple[str, str]:
        """Make a pair's series, at 0, if there is room for it.

        Args:
            batch: The processor's name.
            node: The node's id.
            limit: Its concurrency limit.

        Returns:
            The pair under which its items are to be counted.
        """
        pair = (label(batch), label(node))
        with self._lock:
            if pair not in self.shards:
                if len(self.shards) >= _MOST_PAIRS:
                    pair = OTHER_PAIR
                self.shards.setdefault(pair, {})
            self.limits[pair] = limit
            self.batches.setdefault(pair[0], BatchShard())
            self.stalls.setdefault(pair[1], 0)
        return pair

    def shard(self, pair: tuple[str, str], bounds_s: tuple[float, ...]) -> Shard:
        """The calling thread's shard of a declared pair."""
        shards = self.shards[pair]
        thread = threading.get_ident()
        shard = shards.get(thread)
        if shard is None or shard.bounds_s != bounds_s:
            with self._lock:
                if shard is not None:  # the pair's buckets have changed: what was counted stays, under another key
                    shards[-len(shards) - 1] = shard
                shard = shards[thread] = Shard(pair, bounds_s)
        return shard

    def stalled(self, node: str) -> None:
        """Count a time that a node blocked the loop.

        Args:
            node: The node's id, or `none` where the culprit is no node.
        """
        node = label(node)
        with self._lock:
            if node not in self.stalls and len(self.stalls) > _MOST_PAIRS:
                node = OTHER_PAIR[1]
            self.stalls[node] = self.stalls.get(node, 0) + 1

    def dropped(self, signal: Signal, reason: DropReason, count: int = 1) -> None:
        """Count telemetry that is lost."""
        with self._lock:
            self.drops[signal, reason] += count


METRICS: Final = MetricsStore()
"""The process's own store; the collector in the default Prometheus registry reads it."""


class MetricsInstrument(Instrument):
    """Counts one processor's batches.

    Args:
        pair: The pair under which `MetricsStore.declare` wants it counted.
        latency_slo_s: A bound to add to the duration buckets, in seconds.
        store: Where to count.
    """

    def __init__(
        self, pair: tuple[str, str], latency_slo_s: float | None = None, store: MetricsStore = METRICS
    ) -> None:
        self._pair = pair
        self._store = store
        slo = () if latency_slo_s is None else (latency_slo_s,)
        self._bounds_s = tuple(sorted({*DURATION_BOUNDS_S, *slo}))

    def batch_started(self, batch: BatchRecord) -> None:
        """Choose the shard to count in, and watch the loop's lag while the batch runs."""
        store, loop = self._store, asyncio.get_running_loop()
        batch.shard = store.shard(self._pair, self._bounds_s)
        store.limits[self._pair] = batch.limit
        store.loop_name = type(loop).__module__.partition(".")[0]
        store.active.add(batch)
        heartbeat_of(loop).acquire(store.lag.add)

    def item_finished(self, item: ItemRecord) -> None:
        """Count one item: two additions for nearly every one."""
        shard = item.batch.shard
        started_ns = item.started_ns
        if item.state == "ok" and item.attempts == 1 and started_ns == item.pulled_ns:
            swift = shard.swift
            elapsed_ns = item.finished_ns - started_ns
            swift.counts[bisect_left(swift.bounds_ns, elapsed_ns)] += 1
            swift.sum_ns += elapsed_ns
        else:
            shard.add(item)
            elapsed_ns = item.finished_ns - started_ns if started_ns else 0
        item.batch.service_ns += elapsed_ns

    def batch_ended(self, batch: BatchRecord) -> None:
        """Count the batch."""
        store = self._store
        store.active.discard(batch)
        heartbeat_of(asyncio.get_running_loop()).release()
        mine = store.batches[self._pair[0]]
        status = batch.status if batch.status in mine.ended else "failed"
        mine.ended[status] += 1
        wall_ns = batch.finished_ns - batch.started_ns
        mine.duration.add(wall_ns)
        mine.last_completion_s = time.time()
        if status == "ok":
            mine.last_success_s = mine.last_completion_s
        mine.speedup = batch.service_ns / wall_ns if wall_ns > 0 else 0.0
        mine.unaccounted = batch.pulled - batch.completed
