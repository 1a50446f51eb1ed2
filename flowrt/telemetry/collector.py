"""The scrape: one custom collector that turns the store's plain ints into metric families."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar as OpenMetricsExemplar

from flowrt._version import __version__
from flowrt.instrument import instrument_errors
from flowrt.ledger import CAUSES, Cause
from flowrt.records import STATUSES, ItemRecord
from flowrt.telemetry.catalogue import CATALOGUE, CIRCUIT_STATES, DURATION_BOUNDS_S
from flowrt.telemetry.exemplars import Exemplar, Exemplars
from flowrt.telemetry.metrics import HEDGE_OUTCOMES, METRICS, OTHER_PAIR, RETRY_REASONS, Histogram, MetricsStore, Shard
from flowrt.telemetry.text import label

__all__ = ["StoreCollector", "register"]

_registered: set[CollectorRegistry] = set()


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Put the process's store into a registry, once.

    Args:
        registry: The default Prometheus registry, unless a test wants its own.
    """
    if registry not in _registered:
        _registered.add(registry)
        registry.register(StoreCollector(METRICS))


class StoreCollector(Collector):
    """Reads a store at every scrape.

    Args:
        store: What to read.
    """

    def __init__(self, store: MetricsStore) -> None:
        self._store = store
        self._busy_s: dict[tuple[str, str], float] = {}
        self._bound_s: dict[tuple[tuple[str, str], Cause], float] = {}

    def describe(self) -> Iterable[Family]:
        """The names, without reading anything."""
        for metric in CATALOGUE.values():
            name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
            yield Family(name, metric.help, metric.kind)

    def collect(self) -> Iterator[Family]:
        """All families, as of now."""
        yield from self._items()
        yield from self._gauges()
        yield from self._batches()
        yield from self._process()

    def _pairs(self) -> list[tuple[tuple[str, str], list[Shard]]]:
        return [(pair, shards.copy()) for pair, shards in self._store.shards.copy().items()]

    def _items(self) -> Iterator[Family]:
        items, errors = _counter("flowrt_items_total"), _counter("flowrt_item_errors_total")
        attempts, retries = _counter("flowrt_item_attempts_total"), _counter("flowrt_item_retries_total")
        hedges = _counter("flowrt_item_hedges_total")
        backoff = _counter("flowrt_retry_backoff_seconds_total")
        rate_wait = _counter("flowrt_rate_limit_wait_seconds_total")
        duration, attempt = _histogram("flowrt_item_duration_seconds"), _histogram("flowrt_attempt_duration_seconds")
        queue_wait = _histogram("flowrt_item_queue_wait_seconds")
        for pair, shards in self._pairs():
            swift = [shard.swift for shard in shards]
            swift_count = sum(sum(histogram.counts) for histogram in swift)
            for status in STATUSES:
                count = sum(shard.items[status] for shard in shards)
                items.add_metric([*pair, status], count + (swift_count if status == "ok" else 0))
            for status in ("ok", "failed", "timed_out"):
                count = sum(shard.attempts[status] for shard in shards)
                attempts.add_metric([*pair, status], count + (swift_count if status == "ok" else 0))
            for reason in RETRY_REASONS:
                retries.add_metric([*pair, reason], sum(shard.retries[reason] for shard in shards))
            for outcome in HEDGE_OUTCOMES:
                hedges.add_metric([*pair, outcome], sum(shard.hedges[outcome] for shard in shards))
            backoff.add_metric(pair, sum(shard.backoff_ns for shard in shards) / 1e9)
            rate_wait.add_metric(pair, sum(shard.rate_wait_ns for shard in shards) / 1e9)
            by_type: dict[str, int] = {}
            for shard in shards:
                for error_type, count in shard.errors.copy().items():
                    by_type[error_type] = by_type.get(error_type, 0) + count
            for error_type, count in by_type.items():
                errors.add_metric([*pair, error_type], count)
            ok, failed = [shard.ok_exemplars for shard in shards], [shard.failed_exemplars for shard in shards]
            _add(duration, [*pair, "ok"], [*swift, *(shard.ok for shard in shards)], exemplars=[*ok, *ok])
            _add(duration, [*pair, "failed"], [shard.failed for shard in shards], exemplars=failed)
            _add(attempt, [*pair], [*swift, *(shard.attempt for shard in shards)])
            _add(queue_wait, [*pair], [shard.queue_wait for shard in shards], at_zero=swift_count)
        yield from (items, errors, attempts, retries, hedges, duration, attempt, queue_wait, backoff, rate_wait)

    def _gauges(self) -> Iterator[Family]:
        store = self._store
        inflight, limit = _gauge("flowrt_items_inflight"), _gauge("flowrt_concurrency_limit")
        queued, circuit = _gauge("flowrt_items_queued"), _gauge("flowrt_circuit_state")
        waiting: dict[tuple[str, str], int] = {}
        busy, bound = _counter("flowrt_slot_busy_seconds_total"), _counter("flowrt_bound_seconds_total")
        now_ns = time.time_ns()
        running: dict[tuple[str, str], int] = {}
        limits: dict[tuple[str, str], int] = {}
        held_ns: dict[tuple[str, str], int] = {}
        bound_ns: dict[tuple[tuple[str, str], Cause], int] = {}
        for pair, shards in self._pairs():  # before the slots: an item that ends in between is counted late, not twice
            held_ns[pair] = sum(s.swift.sum_ns + s.attempt.sum_ns + s.rate_wait_ns for s in shards)
            for cause in CAUSES:
                bound_ns[pair, cause] = sum(shard.bound_ns[cause] for shard in shards)
        for batch in list(store.active):
            pair = batch.shard.pair
            now = now_ns - batch.epoch_offset_ns
            limits[pair] = limits.get(pair, 0) + batch.limit
            waiting[pair] = waiting.get(pair, 0) + batch.queued
            if batch.ledger is not None:
                for cause, ns in batch.ledger.read(now, batch.latest_ns).items():
                    bound_ns[pair, cause] = bound_ns.get((pair, cause), 0) + ns
            for slot in batch.slots.copy():
                item = slot.item
                if item is not None:
                    running[pair] = running.get(pair, 0) + 1
                    held_ns[pair] = held_ns.get(pair, 0) + _held_ns(item, now)
        for pair in list(store.shards):
            inflight.add_metric(pair, running.get(pair, 0))
            queued.add_metric(pair, waiting.get(pair, 0))
            circuit.add_metric(pair, CIRCUIT_STATES.index(store.circuits.get(pair, "closed")))
            limit.add_metric(pair, limits.get(pair, store.limits.get(pair, 0)))
            seconds = max(self._busy_s.get(pair, 0.0), held_ns.get(pair, 0) / 1e9)
            self._busy_s[pair] = seconds
            busy.add_metric(pair, seconds)
            for cause in CAUSES:
                seconds = max(self._bound_s.get((pair, cause), 0.0), bound_ns.get((pair, cause), 0) / 1e9)
                self._bound_s[pair, cause] = seconds
                bound.add_metric([*pair, cause], seconds)
        yield from (inflight, queued, limit, busy, bound, circuit)

    def _batches(self) -> Iterator[Family]:
        store = self._store
        ended, active = _counter("flowrt_batches_total"), _gauge("flowrt_batches_active")
        expected, completed = _gauge("flowrt_batch_items_expected"), _gauge("flowrt_batch_items_completed")
        duration = _histogram("flowrt_batch_duration_seconds")
        success = _gauge("flowrt_batch_last_success_timestamp_seconds")
        completion = _gauge("flowrt_batch_last_completion_timestamp_seconds")
        speedup, unaccounted = _gauge("flowrt_batch_speedup_ratio"), _gauge("flowrt_unaccounted_items")
        under_way = list(store.active)
        for name, batch in store.batches.copy().items():
            mine = [record for record in under_way if record.shard.pair[0] == name]
            for status, count in batch.ended.items():
                ended.add_metric([name, status], count)
            active.add_metric([name], len(mine))
            expected.add_metric([name], sum(record.expected or 0 for record in mine))
            completed.add_metric([name], sum(record.completed for record in mine))
            _add(duration, [name], [batch.duration])
            success.add_metric([name], batch.last_success_s)
            completion.add_metric([name], batch.last_completion_s)
            for method, ratio in batch.speedup.copy().items():
                speedup.add_metric([name, method], ratio)
            unaccounted.add_metric([name], batch.unaccounted)
        yield from (ended, active, expected, completed, duration, success, completion, speedup, unaccounted)

    def _process(self) -> Iterator[Family]:
        store = self._store
        lag = _histogram("flowrt_event_loop_lag_seconds")
        _add(lag, [], [store.lag])
        stalls, dropped = _counter("flowrt_loop_stalls_total"), _counter("flowrt_telemetry_dropped_total")
        for node, count in store.stalls.copy().items():
            stalls.add_metric([node], count)
        others = store.shards.get(OTHER_PAIR, []).copy()
        crowded = sum(shard.total for shard in others)
        for (signal, reason), count in store.drops.copy().items():
            extra = crowded if (signal, reason) == ("metrics", "cardinality") else 0
            dropped.add_metric([signal, reason], count + extra)
        size, most = _gauge("flowrt_telemetry_queue_size"), _gauge("flowrt_telemetry_queue_limit")
        pipeline = store.pipeline
        size.add_metric(["spans"], 0 if pipeline is None else pipeline.waiting)
        most.add_metric(["spans"], 0 if pipeline is None else pipeline.limit)
        broken = _counter("flowrt_instrument_errors_total")
        for instrument, count in instrument_errors.copy().items():
            broken.add_metric([label(instrument)], count)
        build = _gauge("flowrt_build_info")
        build.add_metric([__version__, platform.python_version(), store.loop_name], 1)
        yield from (lag, stalls, dropped, size, most, broken, build)


def _held_ns(item: ItemRecord, now_ns: int) -> int:
    """For how long an item has occupied slots, as far as it is not counted: what ended before a retry is."""
    started_ns = item.started_ns  # read once: the loop's thread goes on
    if started_ns:
        return max(0, now_ns - started_ns) + item.rate_wait_ns
    return max(0, now_ns - item.pulled_ns) if item.attempts == 0 else item.rate_wait_ns


def _counter(name: str) -> CounterMetricFamily:
    metric = CATALOGUE[name]
    return CounterMetricFamily(name, metric.help, labels=metric.labels)


def _gauge(name: str) -> GaugeMetricFamily:
    metric = CATALOGUE[name]
    return GaugeMetricFamily(name, metric.help, labels=metric.labels)


def _histogram(name: str) -> HistogramMetricFamily:
    metric = CATALOGUE[name]
    return HistogramMetricFamily(name, metric.help, labels=metric.labels)


def _add(
    family: HistogramMetricFamily,
    labels: list[str],
    histograms: list[Histogram],
    at_zero: int = 0,
    exemplars: Sequence[Exemplars] = (),
) -> None:
    """Add the sum of some histograms, whose bounds may differ, as one cumulative series.

    Exemplars, where there are any, are in the order of the histograms that they belong to.
    """
    bounds_ns: list[float] = sorted({bound for histogram in histograms for bound in histogram.bounds_ns})
    if not bounds_ns:
        bounds_ns = [round(bound * 1e9) for bound in DURATION_BOUNDS_S]
    cumulated = dict.fromkeys(bounds_ns, at_zero)
    total, sum_ns = at_zero, 0
    for histogram in histograms:
        counts, sum_ns = histogram.counts.copy(), sum_ns + histogram.sum_ns
        total += sum(counts)
        seen, place = 0, 0
        for bound in bounds_ns:
            if place < len(histogram.bounds_ns) and histogram.bounds_ns[place] == bound:
                seen += counts[place]
                place += 1
            cumulated[bound] += seen
    shown: dict[float, Exemplar] = {}
    for histogram, its in zip(histograms, exemplars, strict=False):
        for bound, exemplar in zip((*histogram.bounds_ns, math.inf), its.latest, strict=True):
            if exemplar is not None and (bound not in shown or shown[bound].at_s < exemplar.at_s):
                shown[bound] = exemplar
    buckets = [_bucket(repr(bound / 1e9), float(count), shown.get(bound)) for bound, count in cumulated.items()]
    family.add_metric(labels, [*buckets, _bucket("+Inf", float(total), shown.get(math.inf))], sum_ns / 1e9)


def _bucket(bound: str, count: float, exemplar: Exemplar | None) -> Any:
    if exemplar is None:
        return bound, count
    return bound, count, OpenMetricsExemplar({"trace_id": exemplar.trace_id}, exemplar.value_s, exemplar.at_s)
