"""View of one batch for the live page, sampled from its record."""

from __future__ import annotations

import asyncio
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from flowrt.attribution.explanation import explain_batch
from flowrt.attribution.ledger import CAUSES, Cause
from flowrt.attribution.stalls import Stall
from flowrt.model import BatchRecord
from flowrt.telemetry.live.history import WINDOW_S, History, Point, percentile
from flowrt.telemetry.live.items import Failures, Occupied, Slowest, oldest, running_rows
from flowrt.telemetry.metrics.store import Shard
from flowrt.telemetry.redaction import Redact, redact, shorten

__all__ = ["BatchView"]

_MAX_STALLS: Final = 10
_QUANTILES: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


class _Counts(NamedTuple):
    """Cumulative counts at one time."""

    by_status: dict[str, int]
    pulled: int
    durations: tuple[int, ...]


class BatchView:
    """State of one batch for the page, while it runs and after its end.

    The loop's thread calls the constructor, `failures.add` and `end`; the sampler's thread calls everything else.

    Args:
        batch: The record of the batch. It must have a metrics shard.
        loop: The loop that runs the batch.
        redact: Removes secrets from error texts; it must not raise.
        partial: True for a batch that was added after its start: its latency and history begin now.

    Attributes:
        batch: The record.
        loop: The loop that runs the batch; None after its end.
        evicted: True once a failing batch has taken the view's place on the page.
        failures: The items that failed.
        over: True once the batch has ended.
        state: The state as JSON values, as of the last sample.
    """

    def __init__(
        self, batch: BatchRecord, loop: asyncio.AbstractEventLoop, redact: Redact = redact, *, partial: bool = False
    ) -> None:
        self.batch = batch
        self.loop: asyncio.AbstractEventLoop | None = loop
        self.evicted = False
        self.failures = Failures(batch, redact)
        self._redact = redact
        self.over = False
        self.state: dict[str, Any] = {}
        self._shard: Shard = batch.shard
        self._partial = partial
        self._before = self._durations()
        self._last: _Counts | None = None
        self._slowest = Slowest()
        self._history = History()

    def end(self) -> None:
        """Take the final counts before the next batch of the processor adds to the shard."""
        self._last = self._count()
        self.over = True
        self.loop = None  # or a view that stays on the page would keep a closed loop alive

    def sample(self, *, detailed: bool) -> None:
        """Read the record: add a point to the history and set a new `state`.

        Args:
            detailed: True to include the lines of code at which items in flight wait.
        """
        batch, over = self.batch, self.over
        counts = self._count() if self._last is None else self._last
        now_ns = batch.finished_ns if over else batch.clock()
        elapsed_s = max(0.0, (now_ns - batch.started_ns) / 1e9)
        occupied: list[Occupied] = [(slot, item) for slot in batch.slots.copy() if (item := slot.item) is not None]
        first = oldest(occupied)
        for row in self.failures.take():
            self._slowest.add(row)
        self._slowest.sample([] if over else [item for _, item in first])
        completed = sum(counts.by_status.values())
        failed = counts.by_status["failed"] + counts.by_status["timed_out"]
        bound_ns = {} if batch.ledger is None else batch.ledger.read(now_ns)
        bound_s = tuple(ns / 1e9 for ns in bound_ns.values())
        point = Point(elapsed_s, completed, failed, len(occupied), batch.limit, batch.queued, counts.durations, bound_s)
        self._history.add(point)
        before = None if over else self._history.window_start()
        rate = _rate(before, point)
        latency, latency_windowed = self._latency(counts.durations, before)
        left = None if batch.expected is None else max(0, batch.expected - completed)
        circuit, paused_ns = batch.circuit, batch.paused_ns  # each once, as the loop may change it meanwhile
        self.state = {
            "id": batch.batch_id,
            "name": batch.name,
            "node": batch.node_id,
            "status": batch.status if over else "running",
            "paused_s": round(max(0, now_ns - paused_ns) / 1e9, 3) if paused_ns else None,
            "started_s": round((batch.started_ns + batch.epoch_offset_ns) / 1e9, 3),
            "elapsed_s": round(elapsed_s, 3),
            "expected": batch.expected,
            "pulled": counts.pulled,
            "completed": completed,
            "counts": counts.by_status,
            "inflight": len(occupied),
            "limit": batch.limit,
            "queued": batch.queued,
            "window_s": None if before is None else WINDOW_S,
            "rate": rate,
            "failing": _failing(before, point),
            "eta_s": round(left / rate, 1) if left and rate and not over and not paused_ns else None,
            "latency": latency,
            "latency_window_s": WINDOW_S if latency_windowed else None,
            "partial": self._partial,
            "errors": dict(sorted(self.failures.by_type.copy().items(), key=lambda pair: -pair[1])),
            "causes": self.failures.causes(),
            "ungrouped": self.failures.ungrouped,
            "failures": list(self.failures.rows),
            "slowest": self._slowest.rows(),
            "running": running_rows(first, now_ns) if detailed and not over else [],
            "bound_s": dict(zip(CAUSES, (round(seconds, 3) for seconds in bound_s), strict=False)),
            "bound_window": _shares(before, point),
            "explained": self._explain(bound_ns),
            "stalls": self._stalls(),
            "stall_groups": self._stall_groups(),
            "circuit": None if circuit is None else circuit.new,
            "point": self._row(*self._history.points[-2:]),
        }

    def history(self) -> list[list[Any]]:
        """Return the history, a row per point, oldest first."""
        points = self._history.points.copy()
        return [self._row(*points[max(0, i - 1) : i + 1]) for i in range(len(points))]

    def _explain(self, bound_ns: dict[Cause, int]) -> str:
        return explain_batch(self.batch, bound_ns)

    def _stalls(self) -> list[dict[str, Any]]:
        """Return the last stalls of the loop, oldest first."""
        batch, ledger = self.batch, self.batch.ledger
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
                "stack": _shown_stack(stall.stack, self._redact),
                "garbage_collection": stall.garbage_collection,
                "delayed": stall.delayed,
                "held_s": round(stall.held_s, 3),
            }
            for stall in ledger.delays.stalls[-_MAX_STALLS:]
        ]

    def _stall_groups(self) -> list[dict[str, Any]]:
        """Return the stalls grouped by cause, the group with the longest total first."""
        batch, ledger = self.batch, self.batch.ledger
        if ledger is None:
            return []
        start_s = (batch.started_ns + batch.epoch_offset_ns) / 1e9
        groups: dict[tuple[Any, ...], list[Stall]] = {}
        for stall in ledger.delays.stalls.copy():
            line = stall.stack.rpartition("\n")[2]
            groups.setdefault((stall.garbage_collection, stall.batch, stall.node, line), []).append(stall)
        rows = []
        for stalls in sorted(groups.values(), key=lambda group: -sum(stall.duration_s for stall in group)):
            longest = max(stalls, key=lambda stall: stall.duration_s)
            rows.append(
                {
                    "count": len(stalls),
                    "total_s": round(sum(stall.duration_s for stall in stalls), 3),
                    "longest_s": round(longest.duration_s, 3),
                    "last_s": round(start_s + stalls[-1].began_ns / 1e9, 3),
                    "delayed": sum(stall.delayed for stall in stalls),
                    "batch": longest.batch,
                    "node": longest.node,
                    "index": longest.item_index,
                    "trace_id": longest.trace_id,
                    "stack": _shown_stack(longest.stack, self._redact),
                    "garbage_collection": longest.garbage_collection,
                }
            )
        return rows[:_MAX_STALLS]

    def _row(self, before: Point, point: Point | None = None) -> list[Any]:
        """Return a row for the charts: the point, with percentiles of items that ended since the previous point."""
        if point is None:
            point, spread = before, before.durations
        else:
            spread = _difference(before.durations, point.durations)
        counts = [point.completed, point.failed, point.inflight, point.limit, point.queued]
        return [round(point.at_s, 3), *counts, *self._percentiles(spread), [round(s, 4) for s in point.bound_s]]

    def _latency(self, durations: tuple[int, ...], before: Point | None) -> tuple[dict[str, float | None], bool]:
        """Return percentiles, and whether they are over the window: over the whole batch if none ended within it."""
        spread = durations if before is None else _difference(before.durations, durations)
        windowed = before is not None and any(spread)
        found = self._percentiles(spread if windowed else durations)
        return {name: value for (name, _), value in zip(_QUANTILES, found, strict=True)}, windowed

    def _percentiles(self, counts: tuple[int, ...]) -> list[float | None]:
        found = [percentile(counts, self._shard.bounds_s, q) for _, q in _QUANTILES]
        return [None if value is None else round(value, 5) for value in found]

    def _durations(self) -> tuple[int, ...]:
        shard = self._shard
        return tuple(map(sum, zip(shard.fast_path.counts, shard.ok.counts, shard.failed.counts, strict=True)))

    def _count(self) -> _Counts:
        # durations first: the engine updates statuses first, so no duration is counted without its status
        durations = _difference(self._before, self._durations())
        return _Counts(self.batch.counts.copy(), self.batch.pulled, durations)


def _difference(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(b - a for a, b in zip(before, after, strict=True))


@lru_cache(maxsize=256)  # the same stalls are shown in every sample
def _shown_stack(stack: str, redact: Redact) -> str:
    return shorten(redact(_relative(stack)))


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


def _failing(before: Point | None, point: Point) -> dict[str, int]:
    """Return the items that ended and those that failed since the earlier point, or since the batch's start."""
    if before is None:
        return {"ended": point.completed, "failed": point.failed}
    return {"ended": point.completed - before.completed, "failed": point.failed - before.failed}


def _shares(before: Point | None, point: Point) -> dict[str, float]:
    """Return the share of each cause of the ledger since the earlier point, or since the batch's start."""
    spent_s = point.bound_s
    if before is not None:
        # a cause may shrink again, since only a further pull shows whether a generator has more inputs
        spent_s = tuple(max(0.0, b - a) for a, b in zip(before.bound_s, point.bound_s, strict=True))
    total = sum(spent_s)
    if total <= 0:
        return {}
    return {cause: round(s / total, 4) for cause, s in zip(CAUSES, spent_s, strict=False)}
