"""Store of the metrics: integers that the loop's thread increments, read at each scrape.

A shard belongs to one (batch, node) pair, and one batch at a time counts in it. The hot path therefore needs no lock:
that batch's loop writes, the scrape reads, and the difference between the batch's end and its start is what the batch
counted. Values that a scrape can derive (totals, attempts, gauges) are not counted per item.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import Final, Literal, Protocol

from flowrt._util.labels import label
from flowrt._util.weak_registry import WeakRegistry
from flowrt.attribution.ledger import CAUSES, Cause
from flowrt.model import STATUSES, BatchRecord, ItemRecord
from flowrt.telemetry.metrics.catalogue import LAG_BOUNDS_S, LOOKUP_RESULTS, QUEUE_WAIT_BOUNDS_S, RUN_BOUNDS_S
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
"""Pair under which items are counted once there are more (batch, node) pairs than the limit of labels."""

_MAX_PAIRS: Final = 64
_MAX_ERROR_TYPES: Final = 20
_OTHER_ERROR: Final = "_OTHER"
_FAILED_ATTEMPTS: Final = {"failed": "failed", "cancelled": "failed", "timed_out": "timed_out"}

HEDGE_OUTCOMES: Final = ("won", "lost", "failed")
RETRY_REASONS: Final = ("error", "timeout", "rate_limited")

Signal = Literal["spans", "attributes", "logs", "exemplars", "metrics"]
DropReason = Literal["queue_full", "export_error", "cardinality", "shutdown"]
SIGNALS: Final[tuple[Signal, ...]] = ("spans", "attributes", "logs", "exemplars", "metrics")
DROP_REASONS: Final[tuple[DropReason, ...]] = ("queue_full", "export_error", "cardinality", "shutdown")


class Histogram:
    """Histogram over bounds in nanoseconds, with a count per bucket.

    Args:
        bounds_s: Upper bounds of the buckets in seconds, ascending; an additional last bucket has no bound.
    """

    __slots__ = ("bounds_ns", "counts", "sum_ns")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_ns = tuple(round(bound * 1e9) for bound in bounds_s)
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_ns = 0

    def add(self, value_ns: int) -> int:
        """Count one value and return its bucket's index."""
        bucket = bisect_left(self.bounds_ns, value_ns)
        self.counts[bucket] += 1
        self.sum_ns += value_ns
        return bucket


class ErrorTypes:
    """Error types of a (batch, node) pair that have a series of their own: the first ones that occur."""

    __slots__ = ("_lock", "_names")

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def admit(self, name: str) -> str:
        """Return the label value under which to count an error type.

        Args:
            name: The error type.
        """
        names = self._names
        if name not in names:
            with self._lock:
                if len(names) < _MAX_ERROR_TYPES:
                    names.add(name)
        return name if name in names else _OTHER_ERROR


class Shard:
    """Counts of one (batch, node) pair, incremented by one batch after another.

    Nearly every item is ok at its first attempt and starts the moment it is pulled. Such an item is counted in
    `fast_path` alone, which stands for one item with status ok, its duration, its one attempt and a queue wait of 0.
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
        "fast_path",
        "hedges",
        "items",
        "items_before",
        "lookups",
        "ok",
        "ok_exemplars",
        "pair",
        "queue_wait",
        "rate_wait_ns",
        "reruns",
        "retries",
        "service_ns_before",
    )

    def __init__(
        self, pair: tuple[str, str], bounds_s: tuple[float, ...], error_types: ErrorTypes | None = None
    ) -> None:
        self.pair = pair
        self.bounds_s = bounds_s
        self.error_types = error_types or ErrorTypes()
        self.fast_path = Histogram(bounds_s)
        self.items: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.errors: dict[str, int] = {}
        self.attempts = {"ok": 0, "failed": 0, "timed_out": 0}
        self.retries = dict.fromkeys(RETRY_REASONS, 0)
        self.hedges = dict.fromkeys(HEDGE_OUTCOMES, 0)
        self.reruns = 0
        self.lookups = dict.fromkeys(LOOKUP_RESULTS, 0)
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
        """Start counting for a new batch."""
        for exemplars in (self.ok_exemplars, self.failed_exemplars):
            exemplars.due_ns = [0] * len(exemplars.due_ns)  # the new batch's clock may differ
        self.items_before = self.total
        self.service_ns_before = self.fast_path.sum_ns + self.attempt.sum_ns

    @property
    def total(self) -> int:
        """Items counted by all batches."""
        return sum(self.fast_path.counts) + sum(self.items.values())

    @property
    def counted(self) -> int:
        """Items counted since the batch began."""
        return self.total - self.items_before

    @property
    def service_ns(self) -> int:
        """Sum of the attempts' service times since the batch began, in nanoseconds."""
        return self.fast_path.sum_ns + self.attempt.sum_ns - self.service_ns_before

    def add(self, item: ItemRecord) -> None:
        """Count an item that is not on the fast path."""
        state = item.status
        self.items[state] += 1
        if state != "ok" and state != "resumed":
            self._add_error(item.error_type or "unknown")
        if item.attempts:
            duration_ns = item.finished_ns - item.pulled_ns
            bucket = (self.ok if state == "ok" else self.failed).add(duration_ns)
            exemplars = self.ok_exemplars if state == "ok" else self.failed_exemplars
            if item.finished_ns >= exemplars.due_ns[bucket]:
                exemplars.take(bucket, item)
            if item.started_ns:  # else the item ended while it waited for a retry, and its attempts are counted
                self._add_attempt(item)
            self.queue_wait.add(item.queue_wait_ns)
        self.backoff_ns += item.backoff_ns
        self.rate_wait_ns += item.rate_wait_ns

    def add_cancelled(self, count: int) -> None:
        """Count inputs that were cancelled without having been started."""
        self.items["cancelled"] += count
        self._add_error("CancelledError", count)

    def add_retry(self, item: ItemRecord) -> None:
        """Count an attempt that is not the item's last."""
        if item.started_ns:  # else the attempt did not reach the node
            self._add_attempt(item)
        self.retries[item.retry.reason] += 1

    def _add_attempt(self, item: ItemRecord) -> None:
        self.attempts[_FAILED_ATTEMPTS.get(item.status, "ok")] += 1
        self.attempt.add(item.finished_ns - item.started_ns)

    def _add_error(self, error_type: str, count: int = 1) -> None:
        errors = self.errors
        if error_type not in errors:
            error_type = self.error_types.admit(label(error_type))
        errors[error_type] = errors.get(error_type, 0) + count


class BatchShard:
    """Counts per batch name, updated once per batch."""

    __slots__ = ("duration", "ended", "last_completion_s", "last_success_s", "speedup", "unaccounted")

    def __init__(self) -> None:
        self.ended = {"ok": 0, "failed": 0, "cancelled": 0}
        self.duration = Histogram(RUN_BOUNDS_S)
        self.last_success_s = 0.0
        self.last_completion_s = 0.0
        self.speedup: dict[str, float] = {"claimed": 0.0, "measured": 0.0}
        self.unaccounted = 0


class Waiting(Protocol):
    """Queue of telemetry to export."""

    @property
    def waiting(self) -> int:
        """Number of entries that wait."""

    @property
    def limit(self) -> int:
        """Largest number of entries that may wait."""


class MetricsStore:
    """All counts of a process."""

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
        """Create a pair's series at 0, up to the limit of pairs.

        Args:
            batch: The processor's name.
            node: The node's id.
            limit: The processor's concurrency limit.

        Returns:
            The pair under which to count the processor's items: `OTHER_PAIR` over the limit.
        """
        pair = (label(batch), label(node))
        with self._lock:
            if pair not in self.shards:
                if len(self.shards) >= _MAX_PAIRS:
                    pair = OTHER_PAIR
                self.shards.setdefault(pair, [])
            self.limits[pair] = limit
            self.batches.setdefault(pair[0], BatchShard())
            self.stalls.setdefault(pair[1], 0)
        return pair

    def take(self, pair: tuple[str, str], bounds_s: tuple[float, ...]) -> Shard:
        """Take a shard of a declared pair for one batch, until `give_back`.

        Args:
            pair: The pair that `declare` returned.
            bounds_s: Bounds of the shard's duration histograms, in seconds.
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
        """Return a shard after its batch has ended. Its counts stay."""
        with self._lock:
            self._free[shard.pair].append(shard)

    def stalled(self, node: str) -> None:
        """Count a stall of the loop.

        Args:
            node: The id of the node that caused it, or `none` if no node did.
        """
        node = label(node)
        with self._lock:
            if node not in self.stalls and len(self.stalls) > _MAX_PAIRS:
                node = OTHER_PAIR[1]
            self.stalls[node] = self.stalls.get(node, 0) + 1

    def dropped(self, signal: Signal, reason: DropReason, count: int = 1) -> None:
        """Count dropped telemetry."""
        with self._lock:
            self.drops[signal, reason] += count


METRICS: Final = MetricsStore()
"""The process's store, which the collector in the default Prometheus registry reads."""
