"""Snapshot of the store: the current value of every series, independent of any exposition format."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from flowrt._util.labels import label
from flowrt._version import __version__
from flowrt.attribution.ledger import CAUSES, Cause
from flowrt.engine.instrument import instrument_errors
from flowrt.model import STATUSES, BatchRecord, ItemRecord
from flowrt.telemetry.metrics.catalogue import (
    CATALOGUE,
    CIRCUIT_STATES,
    DURATION_BOUNDS_S,
    LAG_BOUNDS_S,
    LOOKUP_RESULTS,
    QUEUE_WAIT_BOUNDS_S,
    RUN_BOUNDS_S,
)
from flowrt.telemetry.metrics.exemplars import Exemplar, Exemplars
from flowrt.telemetry.metrics.readings import Distribution, Labels, Reading, Row, Value
from flowrt.telemetry.metrics.store import HEDGE_OUTCOMES, OTHER_PAIR, RETRY_REASONS, Histogram, MetricsStore, Shard
from flowrt.telemetry.metrics.workers import read_workers

__all__ = ["Distribution", "Labels", "Reader", "Reading", "Row", "Value"]


class Reader:
    """Reads a store. Counters that it derives from running items never decrease between two reads.

    Args:
        store: The store to read.
    """

    def __init__(self, store: MetricsStore) -> None:
        self._store = store
        self._reruns: dict[tuple[str, str], int] = {}
        self._busy_s: dict[tuple[str, str], float] = {}
        self._bound_s: dict[tuple[tuple[str, str], Cause], float] = {}

    def read(self) -> list[Reading]:
        """Current values of every metric in the catalogue."""
        return [*self._items(), *self._gauges(), *self._batches(), *self._process(), *read_workers()]

    def _pairs(self) -> list[tuple[tuple[str, str], list[Shard]]]:
        return [(pair, shards.copy()) for pair, shards in self._store.shards.copy().items()]

    def _items(self) -> Iterator[Reading]:
        items, errors, attempts, reruns, retries, hedges, lookups, backoff, rate_wait = _lists(9)
        duration, attempt, queue_wait = _lists(3)
        rerun: dict[tuple[str, str], int] = {}
        for pair, shards in self._pairs():
            fast_path = _by_bounds([_Copy.of(shard.fast_path) for shard in shards])
            fast_path_count = sum([sum(histogram.counts) for histogram in fast_path])
            rerun[pair] = sum([shard.reruns for shard in shards])
            exemplars = [(shard.ok.bounds_ns, shard.ok_exemplars) for shard in shards]
            counted = _with_rest(shards)
            for status in STATUSES:
                count = sum([shard.items[status] for shard in counted])
                items.append(((*pair, status), count + fast_path_count if status == "ok" else count))
            for status in ("ok", "failed", "timed_out"):
                count = sum([shard.attempts[status] for shard in counted])
                attempts.append(((*pair, status), count + fast_path_count if status == "ok" else count))
            for reason in RETRY_REASONS:
                retries.append(((*pair, reason), sum([shard.retries[reason] for shard in counted])))
            for outcome in HEDGE_OUTCOMES:
                hedges.append(((*pair, outcome), sum([shard.hedges[outcome] for shard in counted])))
            for result in LOOKUP_RESULTS:
                lookups.append(((*pair, result), sum([shard.lookups[result] for shard in counted])))
            backoff.append((pair, sum([shard.backoff_ns for shard in counted]) / 1e9))
            rate_wait.append((pair, sum([shard.rate_wait_ns for shard in counted]) / 1e9))
            by_type: dict[str, int] = {}
            for shard in counted:
                for error_type, count in shard.errors.copy().items():
                    by_type[error_type] = by_type.get(error_type, 0) + count
            errors += [((*pair, error_type), count) for error_type, count in by_type.items()]
            ok, failed = [_Copy.of(shard.ok) for shard in counted], [_Copy.of(shard.failed) for shard in counted]
            bounds_s = DURATION_BOUNDS_S
            duration.append(((*pair, "ok"), _merged([*fast_path, *ok], bounds_s, exemplars=exemplars)))
            exemplars = [(shard.failed.bounds_ns, shard.failed_exemplars) for shard in counted]
            duration.append(((*pair, "failed"), _merged(failed, bounds_s, exemplars=exemplars)))
            attempt.append((pair, _merged([*fast_path, *[_Copy.of(shard.attempt) for shard in counted]], bounds_s)))
            waits = [_Copy.of(shard.queue_wait) for shard in counted]
            queue_wait.append((pair, _merged(waits, QUEUE_WAIT_BOUNDS_S, at_zero=fast_path_count)))
        # Active batches are read after the shards: a batch that ends in between is missing from this read, since its
        # shard was read without it. In the other order it would be counted twice.
        for batch in list(self._store.active):
            if batch.reruns:
                rerun[batch.shard.pair] = rerun.get(batch.shard.pair, 0) + batch.reruns
        for pair, count in rerun.items():
            self._reruns[pair] = max(self._reruns.get(pair, 0), count)
            reruns.append((pair, self._reruns[pair]))
        yield Reading(CATALOGUE["flowrt_items_total"], items)
        yield Reading(CATALOGUE["flowrt_item_errors_total"], errors)
        yield Reading(CATALOGUE["flowrt_item_attempts_total"], attempts)
        yield Reading(CATALOGUE["flowrt_item_reruns_total"], reruns)
        yield Reading(CATALOGUE["flowrt_item_retries_total"], retries)
        yield Reading(CATALOGUE["flowrt_item_hedges_total"], hedges)
        yield Reading(CATALOGUE["flowrt_cache_lookups_total"], lookups)
        yield Reading(CATALOGUE["flowrt_item_duration_seconds"], duration)
        yield Reading(CATALOGUE["flowrt_attempt_duration_seconds"], attempt)
        yield Reading(CATALOGUE["flowrt_item_queue_wait_seconds"], queue_wait)
        yield Reading(CATALOGUE["flowrt_retry_backoff_seconds_total"], backoff)
        yield Reading(CATALOGUE["flowrt_rate_limit_wait_seconds_total"], rate_wait)

    def _gauges(self) -> Iterator[Reading]:
        store = self._store
        inflight, queued, limit, busy, bound, circuit = _lists(6)
        running: dict[tuple[str, str], int] = {}
        waiting: dict[tuple[str, str], int] = {}
        limits: dict[tuple[str, str], int] = {}
        occupied_ns: dict[tuple[str, str], int] = {}
        bound_ns: dict[tuple[tuple[str, str], Cause], int] = {}
        # Shards before slots: an item that ends in between is then missing from this read, and not counted twice.
        for pair, shards in self._pairs():
            occupied_ns[pair] = sum([s.fast_path.sum_ns + s.attempt.sum_ns + s.rate_wait_ns for s in shards])
            for cause in CAUSES:
                bound_ns[pair, cause] = sum([shard.bound_ns[cause] for shard in shards])
        for batch in list(store.active):
            pair = batch.shard.pair
            now = batch.clock()
            limits[pair] = limits.get(pair, 0) + batch.limit
            waiting[pair] = waiting.get(pair, 0) + batch.queued
            if batch.ledger is not None:
                for cause, ns in batch.ledger.read(now, batch.latest_ns).items():
                    bound_ns[pair, cause] = bound_ns.get((pair, cause), 0) + ns
            for slot in batch.slots.copy():
                item = slot.item
                if item is not None:
                    running[pair] = running.get(pair, 0) + 1
                    occupied_ns[pair] = occupied_ns.get(pair, 0) + _occupied_ns(item, now)
        for pair in list(store.shards):
            inflight.append((pair, running.get(pair, 0)))
            queued.append((pair, waiting.get(pair, 0)))
            circuit.append((pair, CIRCUIT_STATES.index(store.circuits.get(pair, "closed"))))
            limit.append((pair, limits.get(pair, store.limits.get(pair, 0))))
            seconds = max(self._busy_s.get(pair, 0.0), occupied_ns.get(pair, 0) / 1e9)
            self._busy_s[pair] = seconds
            busy.append((pair, seconds))
            for cause in CAUSES:
                seconds = max(self._bound_s.get((pair, cause), 0.0), bound_ns.get((pair, cause), 0) / 1e9)
                self._bound_s[pair, cause] = seconds
                bound.append(((*pair, cause), seconds))
        yield Reading(CATALOGUE["flowrt_items_inflight"], inflight)
        yield Reading(CATALOGUE["flowrt_items_queued"], queued)
        yield Reading(CATALOGUE["flowrt_concurrency_limit"], limit)
        yield Reading(CATALOGUE["flowrt_slot_busy_seconds_total"], busy)
        yield Reading(CATALOGUE["flowrt_bound_seconds_total"], bound)
        yield Reading(CATALOGUE["flowrt_circuit_state"], circuit)

    def _batches(self) -> Iterator[Reading]:
        store = self._store
        ended, active, expected, completed, duration, success, completion, speedup, unaccounted = _lists(9)
        by_name: dict[str, list[BatchRecord]] = {}
        for record in list(store.active):
            by_name.setdefault(record.shard.pair[0], []).append(record)
        for name, batch in store.batches.copy().items():
            key = (name,)
            mine = by_name.get(name, ())
            ended += [((name, status), count) for status, count in batch.ended.items()]
            active.append((key, len(mine)))
            expected.append((key, sum([record.expected or 0 for record in mine])))
            completed.append((key, sum([record.completed for record in mine])))
            duration.append((key, _merged([_Copy.of(batch.duration)], RUN_BOUNDS_S)))
            success.append((key, batch.last_success_s))
            completion.append((key, batch.last_completion_s))
            speedup += [((name, method), ratio) for method, ratio in batch.speedup.items()]
            unaccounted.append((key, batch.unaccounted))
        yield Reading(CATALOGUE["flowrt_batches_total"], ended)
        yield Reading(CATALOGUE["flowrt_batches_active"], active)
        yield Reading(CATALOGUE["flowrt_batch_items_expected"], expected)
        yield Reading(CATALOGUE["flowrt_batch_items_completed"], completed)
        yield Reading(CATALOGUE["flowrt_batch_duration_seconds"], duration)
        yield Reading(CATALOGUE["flowrt_batch_last_success_timestamp_seconds"], success)
        yield Reading(CATALOGUE["flowrt_batch_last_completion_timestamp_seconds"], completion)
        yield Reading(CATALOGUE["flowrt_batch_speedup_ratio"], speedup)
        yield Reading(CATALOGUE["flowrt_unaccounted_items"], unaccounted)

    def _process(self) -> Iterator[Reading]:
        store = self._store
        lag = _merged([_Copy.of(store.lag)], LAG_BOUNDS_S)
        overflow = sum(shard.total for shard in store.shards.get(OTHER_PAIR, []).copy())
        dropped: list[Row] = []
        for (signal, reason), count in store.drops.copy().items():
            extra = overflow if (signal, reason) == ("metrics", "cardinality") else 0
            dropped.append(((signal, reason), count + extra))
        pipeline = store.pipeline
        size, most = (0, 0) if pipeline is None else (pipeline.waiting, pipeline.limit)
        broken: list[Row] = [((label(name),), count) for name, count in instrument_errors.copy().items()]
        build = (__version__, platform.python_version(), store.loop_name)
        yield Reading(CATALOGUE["flowrt_event_loop_lag_seconds"], [((), lag)])
        yield Reading(CATALOGUE["flowrt_loop_stalls_total"], [((node,), n) for node, n in store.stalls.copy().items()])
        yield Reading(CATALOGUE["flowrt_telemetry_dropped_total"], dropped)
        yield Reading(CATALOGUE["flowrt_telemetry_queue_size"], [(("spans",), size)])
        yield Reading(CATALOGUE["flowrt_telemetry_queue_limit"], [(("spans",), most)])
        yield Reading(CATALOGUE["flowrt_instrument_errors_total"], broken)
        yield Reading(CATALOGUE["flowrt_build_info"], [(build, 1)])


def _lists(number: int) -> list[list[Row]]:
    return [[] for _ in range(number)]


def _occupied_ns(item: ItemRecord, now_ns: int) -> int:
    """Time for which an item has occupied slots and that the shard has not counted yet.

    The shard has counted the attempts before the last retry.
    """
    started_ns = item.started_ns  # read once: the loop's thread changes it meanwhile
    if started_ns:
        return max(0, now_ns - started_ns) + item.rate_wait_ns
    return max(0, now_ns - item.pulled_ns) if item.attempts == 0 else item.rate_wait_ns


class _Copy(NamedTuple):
    """Copy of a histogram: its counts are used more than once while the loop's thread changes the original."""

    bounds_ns: tuple[int, ...]
    counts: list[int]
    sum_ns: int

    @classmethod
    def of(cls, histogram: Histogram) -> _Copy:
        return cls(histogram.bounds_ns, histogram.counts.copy(), histogram.sum_ns)


def _with_rest(shards: Iterable[Shard]) -> list[Shard]:
    """Shards with counters of their own off the fast path, and one of the others for each set of bounds.

    The others share their counters, which are at 0. After a burst of batches there may be thousands of them.
    """
    own: list[Shard] = []
    others: dict[tuple[float, ...], Shard] = {}
    for shard in shards:
        if shard.owns_rest:
            own.append(shard)
        else:
            others[shard.bounds_s] = shard
    return [*own, *others.values()]


def _by_bounds(histograms: Sequence[_Copy]) -> list[_Copy]:
    """Sums of the histograms with equal bounds."""
    alike: dict[tuple[int, ...], list[_Copy]] = {}
    for histogram in histograms:
        alike.setdefault(histogram.bounds_ns, []).append(histogram)
    return [
        _Copy(bounds_ns, list(map(sum, zip(*[each.counts for each in its], strict=True))), sum(i.sum_ns for i in its))
        for bounds_ns, its in alike.items()
    ]


_Shown = Sequence[tuple[tuple[int, ...], Exemplars]]
"""Exemplars, each with the bounds of its histogram's buckets."""


def _merged(
    histograms: Sequence[_Copy], bounds_s: tuple[float, ...], *, at_zero: int = 0, exemplars: _Shown = ()
) -> Distribution:
    """Sum of histograms, whose bounds may differ.

    Args:
        histograms: The histograms to add up.
        bounds_s: Bounds of the result if there are no histograms, in seconds.
        at_zero: Number of zero values to add.
        exemplars: Candidates; the latest one of each bucket is used.
    """
    if not histograms:
        bounds_ns = tuple([round(bound * 1e9) for bound in bounds_s])
        return Distribution(bounds_ns, (0,) * (len(bounds_ns) + 1), 0.0)
    bounds_ns, counts, sum_ns = histograms[0]
    for other in histograms:
        if other.bounds_ns != bounds_ns:
            bounds_ns = tuple(sorted({bound for histogram in histograms for bound in histogram.bounds_ns}))
            histograms = [_spread(histogram, bounds_ns) for histogram in histograms]
            break
    if len(histograms) > 1:
        counts = list(map(sum, zip(*[histogram.counts for histogram in histograms], strict=True)))
        sum_ns = sum([histogram.sum_ns for histogram in histograms])
    if at_zero:
        counts[0] += at_zero
    return Distribution(bounds_ns, tuple(accumulate(counts)), sum_ns / 1e9, _latest(bounds_ns, exemplars))


def _spread(histogram: _Copy, bounds_ns: Iterable[int]) -> _Copy:
    """The same histogram over a superset of its bounds."""
    by_bound = dict(zip(histogram.bounds_ns, histogram.counts, strict=False))
    counts = [by_bound.get(bound, 0) for bound in bounds_ns]
    return _Copy(tuple(bounds_ns), [*counts, histogram.counts[-1]], histogram.sum_ns)


def _latest(bounds_ns: tuple[int, ...], exemplars: _Shown) -> tuple[Exemplar | None, ...]:
    shown: dict[float, Exemplar] = {}
    for its_ns, its in exemplars:
        if any(its.latest):
            for bound, exemplar in zip((*its_ns, math.inf), its.latest, strict=True):
                if exemplar is not None and (bound not in shown or shown[bound].at_s < exemplar.at_s):
                    shown[bound] = exemplar
    return tuple([shown.get(bound) for bound in (*bounds_ns, math.inf)]) if shown else ()
