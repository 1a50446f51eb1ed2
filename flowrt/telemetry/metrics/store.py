"""Store of the metrics: integers that the loop's thread increments, read at each scrape.

A shard belongs to one (batch, node) pair, and one batch at a time counts in it. The hot path therefore needs no lock:
that batch's loop writes, the scrape reads, and the difference between the batch's end and its start is what the batch
counted. Values that a scrape can derive (totals, attempts, gauges) are not counted per item.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from functools import lru_cache
from time import perf_counter_ns
from typing import Final, Literal, NamedTuple, Protocol

from flowrt._util.clock import Clock
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
"""Pair under which items are counted beyond the limit of (batch, node) pairs."""

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

_NO_TIME: Final[dict[Cause, int]] = dict.fromkeys(CAUSES, 0)


@lru_cache(maxsize=64)  # thousands of histograms have the same
def _bounds_ns(bounds_s: tuple[float, ...]) -> tuple[int, ...]:
    return tuple([round(bound * 1e9) for bound in bounds_s])


class Histogram:
    """Histogram over bounds in nanoseconds, with a count per bucket.

    Args:
        bounds_s: Upper bounds of the buckets in seconds, ascending; an additional last bucket has no bound.
    """

    __slots__ = ("bounds_ns", "counts", "sum_ns")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_ns = _bounds_ns(bounds_s)
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_ns = 0

    def add(self, value_ns: int) -> int:
        """Count one value and return its bucket's index."""
        bucket = bisect_left(self.bounds_ns, value_ns)
        self.counts[bucket] += 1
        self.sum_ns += value_ns
        return bucket


class ErrorTypes:
    """Error types of a (batch, node) pair that have their own series: the first to occur, up to a limit."""

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


class _Rest(NamedTuple):
    """Counters for items off the fast path. Shards that have not used them yet share one set, all at 0."""

    items: dict[str, int]
    errors: dict[str, int]
    attempts: dict[str, int]
    retries: dict[str, int]
    hedges: dict[str, int]
    lookups: dict[str, int]
    ok: Histogram
    failed: Histogram
    attempt: Histogram
    queue_wait: Histogram
    failed_exemplars: Exemplars

    @classmethod
    def of(cls, bounds_s: tuple[float, ...]) -> _Rest:
        return cls(
            items=dict.fromkeys(STATUSES, 0),
            errors={},
            attempts={"ok": 0, "failed": 0, "timed_out": 0},
            retries=dict.fromkeys(RETRY_REASONS, 0),
            hedges=dict.fromkeys(HEDGE_OUTCOMES, 0),
            lookups=dict.fromkeys(LOOKUP_RESULTS, 0),
            ok=Histogram(bounds_s),
            failed=Histogram(bounds_s),
            attempt=Histogram(bounds_s),
            queue_wait=Histogram(QUEUE_WAIT_BOUNDS_S),
            failed_exemplars=Exemplars(len(bounds_s) + 1),
        )


@lru_cache(maxsize=64)
def _shared_zeros(bounds_s: tuple[float, ...]) -> _Rest:
    return _Rest.of(bounds_s)


class Shard:
    """Counts of one (batch, node) pair, incremented by one batch after another.

    Nearly every item is ok at its first attempt and starts the moment it is pulled. Such an item is counted in
    `fast_path` alone, which stands for one item with status ok, its duration, its one attempt and a queue wait of 0.
    The other counters are made for the first item that needs them: a service with a thousand small batches at once has
    as many shards, and each would add forty objects for the garbage collector.
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
        "owns_rest",
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
        self.reruns = 0
        self.backoff_ns = 0
        self.bound_ns: dict[Cause, int] = _NO_TIME.copy()
        self.rate_wait_ns = 0
        self.ok_exemplars = Exemplars(len(bounds_s) + 1)
        self.items_before = 0
        self.service_ns_before = 0
        self.owns_rest = False
        self._set_rest(_shared_zeros(bounds_s))

    def _set_rest(self, rest: _Rest) -> None:
        self.items, self.errors, self.attempts, self.retries, self.hedges, self.lookups = rest[:6]
        self.ok, self.failed, self.attempt, self.queue_wait, self.failed_exemplars = rest[6:]

    def own_rest(self) -> None:
        """Give this shard its own counters off the fast path. Call this method before adding to them."""
        if not self.owns_rest:
            self.owns_rest = True
            self._set_rest(_Rest.of(self.bounds_s))

    def begin(self, clock: Clock) -> None:
        """Start counting for a new batch, whose times are by `clock`."""
        self.ok_exemplars.begin(clock)
        if self.owns_rest:
            self.failed_exemplars.begin(clock)
        self.items_before = self.total
        self.service_ns_before = self.fast_path.sum_ns + self.attempt.sum_ns

    @property
    def total(self) -> int:
        """Items counted by all batches."""
        fast_path = sum(self.fast_path.counts)
        return fast_path + sum(self.items.values()) if self.owns_rest else fast_path

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
        self.own_rest()
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
            if item.started_ns:  # 0: the item ended while it waited for a retry, and its attempts are counted
                self._add_attempt(item)
            self.queue_wait.add(item.queue_wait_ns)
        self.backoff_ns += item.backoff_ns
        self.rate_wait_ns += item.rate_wait_ns

    def add_cancelled(self, count: int) -> None:
        """Count inputs that were cancelled without having been started."""
        self.own_rest()
        self.items["cancelled"] += count
        self._add_error("CancelledError", count)

    def add_retry(self, item: ItemRecord) -> None:
        """Count an attempt that is not the item's last."""
        self.own_rest()
        if item.started_ns:  # 0: the attempt did not reach the node
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
    """Counts per batch name, updated once per batch.

    Attributes:
        latest: The batch that ended last.
        latest_claimed: The sum of that batch's service times over its wall time.
    """

    __slots__ = (
        "duration",
        "ended",
        "last_completion_s",
        "last_success_s",
        "latest",
        "latest_claimed",
        "unaccounted",
    )

    def __init__(self) -> None:
        self.ended = {"ok": 0, "failed": 0, "cancelled": 0}
        self.duration = Histogram(RUN_BOUNDS_S)
        self.last_success_s = 0.0
        self.last_completion_s = 0.0
        self.latest: BatchRecord | None = None
        self.latest_claimed = 0.0
        self.unaccounted = 0

    @property
    def speedup(self) -> dict[str, float]:
        """The latest batch's speedup by method; computed on demand, as few batches are the latest at a scrape."""
        speedup = None if self.latest is None else self.latest.speedup
        if speedup is None:
            return {"claimed": self.latest_claimed, "measured": self.latest_claimed}
        found = {"claimed": speedup.claimed}
        if speedup.measured is not None:
            found["measured"] = speedup.measured
        return found


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
        self._free: dict[tuple[tuple[str, str], tuple[float, ...]], list[Shard]] = {}  # by pair and bounds
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

    def take(self, pair: tuple[str, str], bounds_s: tuple[float, ...], clock: Clock = perf_counter_ns) -> Shard:
        """Take a shard of a declared pair for one batch, until `give_back`.

        Args:
            pair: The pair that `declare` returned.
            bounds_s: Bounds of the shard's duration histograms, in seconds.
            clock: The batch's clock.
        """
        try:
            shard = self._free[pair, bounds_s].pop()  # without the lock: each step is one call into C
        except (KeyError, IndexError):
            with self._lock:
                self._free.setdefault((pair, bounds_s), [])
                others = self.shards.setdefault(pair, [])
                shard = Shard(pair, bounds_s, others[0].error_types if others else None)
                others.append(shard)
        shard.begin(clock)
        return shard

    def give_back(self, shard: Shard) -> None:
        """Return a shard after its batch has ended. Its counts stay."""
        self._free[shard.pair, shard.bounds_s].append(shard)

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
