"""Counting: plain ints on the loop's thread, turned into metric families only when somebody scrapes.

A shard belongs to one (batch, node) pair, and one batch at a time counts in it, so nothing needs a lock: that batch's
loop writes, the scrape reads, and what the shard gained from the batch's start to its end is what the batch counted.
What can be derived at the scrape (totals, attempts, gauges) is not counted per item.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import Final, Literal, Protocol

from flowrt._util.labels import label
from flowrt._util.weak_registry import WeakRegistry
from flowrt.attribution.ledger import CAUSES, Cause
from flowrt.model import STATUSES, BatchRecord, ItemRecord
from flowrt.telemetry.metrics.catalogue import LAG_BOUNDS_S, QUEUE_WAIT_BOUNDS_S, RUN_BOUNDS_S
from flowrt.telemetry.metrics.exemplars import Exemplars

__all__ = [
    "METRICS",
    "OTHER_PAIR",
    "BatchShard",
    "Histogram",
    "MetricsStore",
    "Shard",
]

OTHER_PAIR: Final = ("_other", "_other")
"""Where items are counted once there are more (batch, node) pairs than the store keeps apart."""

_MOST_PAIRS: Final = 64
_MOST_ERROR_TYPES: Final = 20
_OTHER_ERROR: Final = "_OTHER"
_FAILED_ATTEMPTS: Final = {"failed": "failed", "cancelled": "failed", "timed_out": "timed_out"}

HEDGE_OUTCOMES: Final = ("won", "lost", "failed")
RETRY_REASONS: Final = ("error", "timeout", "rate_limited")

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

    def add(self, value_ns: int) -> int:
        """Count one value, and give its bucket's place."""
        bucket = bisect_left(self.bounds_ns, value_ns)
        self.counts[bucket] += 1
        self.sum_ns += value_ns
        return bucket


class ErrorTypes:
    """The error types of a (batch, node) pair that have series of their own: the first that any of its batches has."""

    __slots__ = ("_lock", "_names")

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def admit(self, name: str) -> str:
        """The name under which a type is counted.

        Args:
            name: Its own.
        """
        names = self._names
        if name not in names:
            with self._lock:
                if len(names) < _MOST_ERROR_TYPES:
                    names.add(name)
        return name if name in names else _OTHER_ERROR


class Shard:
    """What was counted for one (batch, node) pair, by one batch after another.

    Nearly every item is ok at its first attempt and started the moment it was pulled: such an item is counted in
    `swift` alone, which stands for one item ok, its duration, its one attempt and a queue wait of nothing.
    """

    __slots__ = (
        "attempt",
        "attempts",
        "backoff_ns",
        "bound_ns",
        "bounds_s",
        "error_types",
        "errors",
        "failed",
        "failed_exemplars",
        "hedges",
        "items",
        "items_before",
        "ok",
        "ok_exemplars",
        "pair",
        "queue_wait",
        "rate_wait_ns",
        "retries",
        "service_ns_before",
        "swift",
    )

    def __init__(
        self, pair: tuple[str, str], bounds_s: tuple[float, ...], error_types: ErrorTypes | None = None
    ) -> None:
        self.pair = pair
        self.bounds_s = bounds_s
        self.error_types = error_types or ErrorTypes()
        self.swift = Histogram(bounds_s)
        self.items: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.errors: dict[str, int] = {}
        self.attempts = {"ok": 0, "failed": 0, "timed_out": 0}
        self.retries = dict.fromkeys(RETRY_REASONS, 0)
        self.hedges = dict.fromkeys(HEDGE_OUTCOMES, 0)
        self.backoff_ns = 0
        self.bound_ns: dict[Cause, int] = dict.fromkeys(CAUSES, 0)
        self.rate_wait_ns = 0
        self.ok = Histogram(bounds_s)
        self.failed = Histogram(bounds_s)
        self.attempt = Histogram(bounds_s)
        self.queue_wait = Histogram(QUEUE_WAIT_BOUNDS_S)
        self.ok_exemplars = Exemplars(len(bounds_s) + 1)
        self.failed_exemplars = Exemplars(len(bounds_s) + 1)
        self.items_before = 0
        self.service_ns_before = 0

    def begin(self) -> None:
        """A batch starts to count here."""
        for exemplars in (self.ok_exemplars, self.failed_exemplars):
            exemplars.due_ns = [0] * len(exemplars.due_ns)  # its clock may be another one
        self.items_before = self.total
        self.service_ns_before = self.swift.sum_ns + self.attempt.sum_ns

    @property
    def total(self) -> int:
        """Items counted, of all batches."""
        return sum(self.swift.counts) + sum(self.items.values())

    @property
    def counted(self) -> int:
        """Items counted since the batch began."""
        return self.total - self.items_before

    @property
    def service_ns(self) -> int:
        """Sum of the attempts' times since the batch began."""
        return self.swift.sum_ns + self.attempt.sum_ns - self.service_ns_before

    def add(self, item: ItemRecord) -> None:
        """Count an item that is not swift."""
        state = item.status
        self.items[state] += 1
        if state != "ok" and state != "resumed":
            self._add_error(item.error_type or "unknown")
        if item.attempts:
            held_ns = item.finished_ns - item.pulled_ns
            bucket = (self.ok if state == "ok" else self.failed).add(held_ns)
            exemplars = self.ok_exemplars if state == "ok" else self.failed_exemplars
            if item.finished_ns >= exemplars.due_ns[bucket]:
                exemplars.take(bucket, item)
            if item.started_ns:  # else it waited for another attempt, and what it had is counted
                self._add_attempt(item)
            self.queue_wait.add(item.queue_wait_ns)
        self.backoff_ns += item.backoff_ns
        self.rate_wait_ns += item.rate_wait_ns

    def add_retry(self, item: ItemRecord) -> None:
        """Count an attempt that is not the item's last."""
        if item.started_ns:  # else it had not begun
            self._add_attempt(item)
        self.retries[item.retry.reason] += 1

    def _add_attempt(self, item: ItemRecord) -> None:
        self.attempts[_FAILED_ATTEMPTS.get(item.status, "ok")] += 1
        self.attempt.add(item.finished_ns - item.started_ns)

    def _add_error(self, error_type: str) -> None:
        errors = self.errors
        if error_type not in errors:
            error_type = self.error_types.admit(label(error_type))
        errors[error_type] = errors.get(error_type, 0) + 1


class BatchShard:
    """What is counted per batch name, once per batch."""

    __slots__ = ("duration", "ended", "last_completion_s", "last_success_s", "speedup", "unaccounted")

    def __init__(self) -> None:
        self.ended = {"ok": 0, "failed": 0, "cancelled": 0}
        self.duration = Histogram(RUN_BOUNDS_S)
        self.last_success_s = 0.0
        self.last_completion_s = 0.0
        self.speedup: dict[str, float] = {"claimed": 0.0, "measured": 0.0}
        self.unaccounted = 0


class Waiting(Protocol):
    """What holds telemetry on its way out."""

    @property
    def waiting(self) -> int:
        """How much waits now."""

    @property
    def limit(self) -> int:
        """How much may wait."""


class MetricsStore:
    """Everything counted in this process."""

    def __init__(self) -> None:
        self.shards: dict[tuple[str, str], list[Shard]] = {}
        self._free: dict[tuple[str, str], list[Shard]] = {}
        self.limits: dict[tuple[str, str], int] = {}
        self.circuits: dict[tuple[str, str], str] = {}
        self.batches: dict[str, BatchShard] = {}
        self.active: WeakRegistry[BatchRecord] = WeakRegistry()
        self.lag = Histogram(LAG_BOUNDS_S)
        self.stalls: dict[str, int] = {}
        self.drops: dict[tuple[Signal, DropReason], int] = {(s, r): 0 for s in SIGNALS for r in DROP_REASONS}
        self.loop_name = "none"
        self.pipeline: Waiting | None = None
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
                self.shards.setdefault(pair, [])
            self.limits[pair] = limit
            self.batches.setdefault(pair[0], BatchShard())
            self.stalls.setdefault(pair[1], 0)
        return pair

    def take(self, pair: tuple[str, str], bounds_s: tuple[float, ...]) -> Shard:
        """A shard of a declared pair, for one batch, until it is given back.

        Args:
            pair: What `declare` gave.
            bounds_s: The bounds of its histograms of durations, in seconds.
        """
        with self._lock:
            free = self._free.setdefault(pair, [])
            for shard in free:
                if shard.bounds_s == bounds_s:
                    free.remove(shard)
                    break
            else:
                others = self.shards.setdefault(pair, [])
                shard = Shard(pair, bounds_s, others[0].error_types if others else None)
                others.append(shard)
        shard.begin()
        return shard

    def give_back(self, shard: Shard) -> None:
        """The batch has ended; what it counted stays."""
        with self._lock:
            self._free[shard.pair].append(shard)

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
