"""View of one batch for the live page, sampled from its record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, NamedTuple

from flowrt.attribution.explanation import explain
from flowrt.attribution.ledger import CAUSES, Cause
from flowrt.model import BatchRecord
from flowrt.telemetry.live.history import History, Point, percentile
from flowrt.telemetry.live.items import Failures, Occupied, Slowest, oldest, running_rows
from flowrt.telemetry.live.redaction import redact
from flowrt.telemetry.metrics.store import Shard

__all__ = ["BatchView"]

_WINDOW_S: Final = 30.0  # of the rate, the ETA and the percentiles
_MAX_STALLS: Final = 10
_QUANTILES: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


class _Counts(NamedTuple):
    """Cumulative counts at one time."""

    by_status: dict[str, int]
    pulled: int
    durations: tuple[int, ...]
    errors: dict[str, int]


class BatchView:
    """State of one batch for the page, while it runs and after its end.

    The loop's thread calls the constructor, `failures.add` and `end`; the sampler's thread calls everything else.

    Args:
        batch: The record of the batch. It must have a metrics shard.

    Attributes:
        failures: The last items that failed.
        over: True once the batch has ended.
        state: The state as JSON values, as of the last sample.
    """

    def __init__(self, batch: BatchRecord) -> None:
        self.failures = Failures(batch)
        self.over = False
        self.state: dict[str, Any] = {}
        self._batch = batch
        self._shard: Shard = batch.shard
        self._before = self._count(batch)
        self._last: _Counts | None = None
        self._slowest = Slowest()
        self._history = History()

    def end(self) -> None:
        """Take the final counts before the next batch of the processor adds to the shard."""
        self._last = self._count(self._batch)
        self.over = True

    def sample(self, *, detailed: bool) -> None:
        """Read the record: add a point to the history and set a new `state`.

        Args:
            detailed: True to include the lines of code at which items in flight wait.
        """
        batch, over = self._batch, self.over
        counts = self._since_start(self._count(batch) if self._last is None else self._last)
        now_ns = batch.finished_ns if over else batch.clock()
        elapsed_s = max(0.0, (now_ns - batch.started_ns) / 1e9)
        occupied: list[Occupied] = [(slot, item) for slot in batch.slots.copy() if (item := slot.item) is not None]
        first = oldest(occupied)
        for row in self.failures.take():
            self._slowest.add(row)
        self._slowest.sample([] if over else [item for _, item in first])
        completed = sum(counts.by_status.values())
        failed = counts.by_status["failed"] + counts.by_status["timed_out"]
        bound_ns = {} if batch.ledger is None else batch.ledger.read(now_ns, batch.latest_ns)
        bound_s = tuple(ns / 1e9 for ns in bound_ns.values())
        point = Point(elapsed_s, completed, failed, len(occupied), batch.limit, batch.queued, counts.durations, bound_s)
        self._history.add(point)
        before = None if over else self._history.since(_WINDOW_S)
        rate = _rate(before, point)
        left = None if batch.expected is None else max(0, batch.expected - completed)
        circuit = batch.circuit
        self.state = {
            "id": batch.batch_id,
            "name": batch.name,
            "node": batch.node_id,
            "status": batch.status if over else "running",
            "started_s": round((batch.started_ns + batch.epoch_offset_ns) / 1e9, 3),
            "elapsed_s": round(elapsed_s, 3),
            "expected": batch.expected,
            "pulled": counts.pulled,
            "completed": completed,
            "counts": counts.by_status,
            "inflight": len(occupied),
            "limit": batch.limit,
            "queued": batch.queued,
            "rate": rate,
            "eta_s": round(left / rate, 1) if left and rate and not over else None,
            "latency": self._latency(counts.durations, None if before is None else before.durations),
            "errors": counts.errors,
            "failures": list(self.failures.rows),
            "slowest": self._slowest.rows(),
            "running": running_rows(first, now_ns) if detailed and not over else [],
            "bound_s": dict(zip(CAUSES, (round(seconds, 3) for seconds in bound_s), strict=False)),
            "explained": self._explain(bound_ns),
            "stalls": self._stalls(),
            "circuit": None if circuit is None else circuit.new,
            "point": self._row(*self._history.points[-2:]),
        }

    def history(self) -> list[list[Any]]:
        """Return the history, a row per point, oldest first."""
        points = self._history.points.copy()
        return [self._row(*points[max(0, i - 1) : i + 1]) for i in range(len(points))]

    def _explain(self, bound_ns: dict[Cause, int]) -> str:
        batch, ledger = self._batch, self._batch.ledger
        if ledger is None:
            return ""
        return explain(
            bound_ns,
            limit=batch.limit,
            items=batch.pulled,
            left=ledger.left,
            computing_ns=ledger.computing_ns,
            stalls=ledger.delays.stalls.copy(),
        )

    def _stalls(self) -> list[dict[str, Any]]:
        """Return the last stalls of the loop, oldest first."""
        batch, ledger = self._batch, self._batch.ledger
        if ledger is None:
            return []
        start_s = (batch.started_ns + batch.epoch_offset_ns) / 1e9
        return [
            {
                "at_s": round(start_s + stall.began_ns / 1e9, 3),
                "duration_s": round(stall.duration_s, 3),
                "batch": stall.batch,
                "index": stall.item_index,
                "trace_id": stall.trace_id,
                "stack": redact(_relative(stall.stack)),
                "garbage_collection": stall.garbage_collection,
                "delayed": stall.delayed,
                "held_s": round(stall.held_s, 3),
            }
            for stall in ledger.delays.stalls[-_MAX_STALLS:]
        ]

    def _row(self, before: Point, point: Point | None = None) -> list[Any]:
        """Return a row for the charts: the point, with percentiles of items that ended since the previous point."""
        if point is None:
            point, spread = before, before.durations
        else:
            spread = tuple(b - a for a, b in zip(before.durations, point.durations, strict=True))
        counts = [point.completed, point.failed, point.inflight, point.limit, point.queued]
        return [round(point.at_s, 3), *counts, *self._percentiles(spread), [round(s, 4) for s in point.bound_s]]

    def _latency(self, durations: tuple[int, ...], before: tuple[int, ...] | None) -> dict[str, float | None]:
        """Return percentiles over the window, or over the whole batch if no item ended within the window."""
        spread = durations if before is None else tuple(b - a for a, b in zip(before, durations, strict=True))
        if not any(spread):
            spread = durations
        return {name: value for (name, _), value in zip(_QUANTILES, self._percentiles(spread), strict=True)}

    def _percentiles(self, counts: tuple[int, ...]) -> list[float | None]:
        found = [percentile(counts, self._shard.bounds_s, q) for _, q in _QUANTILES]
        return [None if value is None else round(value, 5) for value in found]

    def _count(self, batch: BatchRecord) -> _Counts:
        shard = self._shard
        # durations first: the engine updates statuses first, so no duration is counted without its status
        each = zip(shard.fast_path.counts, shard.ok.counts, shard.failed.counts, strict=True)
        durations = tuple(map(sum, each))
        return _Counts(batch.counts.copy(), batch.pulled, durations, shard.errors.copy())

    def _since_start(self, now: _Counts) -> _Counts:
        before = self._before
        durations = tuple(b - a for a, b in zip(before.durations, now.durations, strict=True))
        errors = {kind: count - before.errors.get(kind, 0) for kind, count in now.errors.items()}
        ranked = sorted(errors.items(), key=lambda pair: -pair[1])
        return now._replace(durations=durations, errors={kind: count for kind, count in ranked if count})


def _relative(stack: str) -> str:
    """Return the stack with paths relative to the working directory."""
    try:
        here = Path.cwd()
    except OSError:  # the working directory has been removed
        return stack
    return stack.replace(f"{here}{os.sep}", "")


def _rate(before: Point | None, point: Point) -> float:
    """Return items per second since the earlier point, or since the batch's start."""
    if before is None or before.at_s >= point.at_s:
        return round(point.completed / point.at_s, 3) if point.at_s else 0.0
    return round((point.completed - before.completed) / (point.at_s - before.at_s), 3)
