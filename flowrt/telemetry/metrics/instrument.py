"""Instrument that counts a batch and its items in the metrics store."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from functools import lru_cache
from sys import maxsize

from flowrt.attribution.ledger import CAUSES
from flowrt.engine.instrument import Instrument, Phase
from flowrt.eventloop.heartbeat import Heartbeat, heartbeat_of
from flowrt.model import BatchRecord, ItemRecord
from flowrt.telemetry.metrics.catalogue import DURATION_BOUNDS_S
from flowrt.telemetry.metrics.exemplars import Exemplars
from flowrt.telemetry.metrics.store import METRICS, Histogram, MetricsStore, Shard

__all__ = ["MetricsInstrument", "service_ns_of"]


def service_ns_of(batch: BatchRecord) -> int:
    """Sum of the service times of a batch's attempts so far, in nanoseconds; 0 if the batch has no metrics."""
    return batch.shard.service_ns if isinstance(batch.shard, Shard) else 0


@lru_cache(maxsize=64)
def _bounds(latency_slo_s: float | None) -> tuple[float, ...]:
    """Bounds of the duration histograms, in seconds."""
    # Rounded to nanoseconds, as the bounds are: else it could become a second bucket with an equal bound.
    slo = () if latency_slo_s is None else (round(latency_slo_s, 9),)
    return tuple(sorted({*DURATION_BOUNDS_S, *slo}))


@lru_cache(maxsize=16)
def _name_of(loop: type) -> str:
    """Return the name of the package of an event loop's class."""
    return loop.__module__.partition(".")[0]


class MetricsInstrument(Instrument):
    """Counts the items of one batch. Each batch gets its own.

    Args:
        pair: The (batch, node) pair that `MetricsStore.declare` returned.
        latency_slo_s: Additional bound of the duration histograms, in seconds.
        store: The store to count in.
    """

    phase = Phase.METRICS

    def __init__(
        self, pair: tuple[str, str], latency_slo_s: float | None = None, store: MetricsStore = METRICS
    ) -> None:
        self._pair = pair
        self._store = store
        self._bounds_s = _bounds(latency_slo_s)
        self._shard: Shard
        self._heartbeat: Heartbeat
        self._fast_path: Histogram  # this and the following belong to the shard; attributes here are faster to reach
        self._bounds_ns: tuple[int, ...]
        self._counts: list[int]
        self._exemplars: Exemplars
        self._bucket = 0  # of the latest item on the fast path, and its bounds; at first no duration is within them
        self._above_ns = maxsize
        self._most_ns = 0
        self._quiet_ns = 0  # an item in that bucket that ends later is looked at

    def batch_started(self, batch: BatchRecord) -> None:
        """Take a shard for the batch's counts, and measure the loop's lag while the batch runs."""
        store, loop = self._store, asyncio.get_running_loop()
        batch.shard = shard = self._shard = store.take(self._pair, self._bounds_s, batch.clock)
        fast_path = self._fast_path = shard.fast_path
        self._bounds_ns, self._counts = fast_path.bounds_ns, fast_path.counts
        self._exemplars = shard.ok_exemplars
        store.limits[self._pair] = batch.limit
        store.loop_name = _name_of(type(loop))  # type: ignore[arg-type]  # a class is hashable, which mypy does not see
        store.active.add(batch)
        self._heartbeat = heartbeat_of(loop)
        self._heartbeat.acquire(store.lag.add)

    def item_finished(self, item: ItemRecord) -> None:
        """Count one item. Nearly every item takes the fast path of two additions."""
        started_ns, finished_ns = item.started_ns, item.finished_ns
        if started_ns is item.pulled_ns and item.attempts == 1 and item.status == "ok":
            elapsed_ns = finished_ns - started_ns
            if elapsed_ns <= self._above_ns or elapsed_ns > self._most_ns:
                self._enter_bucket(elapsed_ns)
            self._counts[self._bucket] += 1
            self._fast_path.sum_ns += elapsed_ns
            if finished_ns > self._quiet_ns:
                self._look_at(item)
        else:
            if finished_ns > self._heartbeat.slow_ns:
                self._heartbeat.add_ended(item)
            self._shard.add(item)

    def _enter_bucket(self, elapsed_ns: int) -> None:
        """Find the bucket of a duration, which is the previous item's for most items."""
        bounds_ns = self._bounds_ns
        self._bucket = bucket = bisect_left(bounds_ns, elapsed_ns)
        self._above_ns = bounds_ns[bucket - 1] if bucket else -1
        self._most_ns = bounds_ns[bucket] if bucket < len(bounds_ns) else maxsize
        self._quiet_ns = 0

    def _look_at(self, item: ItemRecord) -> None:
        """Check whether an item ended in a long turn of the loop, and whether its bucket's exemplar is due."""
        slow_ns, finished_ns = self._heartbeat.slow_ns, item.finished_ns
        if finished_ns > slow_ns:
            self._heartbeat.add_ended(item)
        self._quiet_ns = slow_ns  # it only grows while the batch is active
        if item.trace:
            if finished_ns >= self._exemplars.due_ns[self._bucket]:
                self._exemplars.take(self._bucket, item)
            self._quiet_ns = min(slow_ns, self._exemplars.due_ns[self._bucket] - 1)

    def retry_scheduled(self, item: ItemRecord) -> None:
        """Count the attempt that has ended."""
        self._shard.add_retry(item)

    def hedge_ended(self, item: ItemRecord) -> None:
        """Count the hedge."""
        if item.hedge is not None:
            self._shard.own_rest()
            self._shard.hedges[item.hedge.outcome] += 1

    def cache_looked_up(self, item: ItemRecord) -> None:
        """Count the look-up."""
        self._shard.own_rest()
        self._shard.lookups["hit" if item.cached else "miss"] += 1

    def circuit_changed(self, batch: BatchRecord) -> None:
        """Store the circuit's new state."""
        self._store.circuits[self._pair] = batch.circuit.new

    def inputs_cancelled(self, batch: BatchRecord) -> None:
        """Count inputs that were cancelled in bulk."""
        self._shard.add_cancelled(batch.unstarted)

    def batch_ended(self, batch: BatchRecord) -> None:
        """Count the batch."""
        store = self._store
        shard = self._shard
        store.active.discard(batch)
        shard.reruns += batch.reruns
        if batch.ledger is not None:
            for cause, bound_ns in zip(CAUSES, batch.ledger.charged, strict=True):  # all is charged, as it has ended
                if bound_ns:
                    shard.bound_ns[cause] += bound_ns
        self._heartbeat.release(store.lag.add)
        mine = store.batches[self._pair[0]]
        status = batch.status if batch.status in mine.ended else "failed"
        mine.ended[status] += 1
        wall_ns = batch.finished_ns - batch.started_ns
        mine.duration.add(wall_ns)
        mine.last_completion_s = time.time()
        if status == "ok":
            mine.last_success_s = mine.last_completion_s
        mine.latest = batch
        mine.latest_claimed = shard.service_ns / wall_ns if wall_ns > 0 else 0.0
