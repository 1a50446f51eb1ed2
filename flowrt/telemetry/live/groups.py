"""Batches grouped by name: the overview of the live page, at a cost per batch that does not grow with their number."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from flowrt.model import BatchRecord
from flowrt.telemetry.live.history import WINDOW_S

__all__ = ["Groups", "Overview"]

_MAX_NAMES: Final = 200  # further names share one group, so that a name per request cannot exhaust memory
_MAX_ROWS: Final = 50
_MAX_DURATIONS: Final = 256
_MIN_STEP_S: Final = 0.4
_OTHER: Final = "(other names)"


class Overview(NamedTuple):
    """Rows of the page's table of names, and how many batches and names there are in all.

    Attributes:
        rows: A row per name, the most troubled first.
        left: Number of names without a row.
        active: Number of active batches, of all names.
        active_names: Number of names with an active batch.
    """

    rows: list[dict[str, Any]]
    left: int
    active: int
    active_names: int


class _Totals(NamedTuple):
    """Cumulative counts of a group at one time."""

    at_s: float
    batches: int
    items: int
    failed_items: int


class _Group:
    """Batches of one name that have ended, and the totals of the last seconds."""

    __slots__ = ("durations_s", "ended", "failed_items", "items", "window")

    def __init__(self) -> None:
        self.ended = {"ok": 0, "failed": 0, "cancelled": 0}
        self.items = 0
        self.failed_items = 0
        self.durations_s: deque[float] = deque(maxlen=_MAX_DURATIONS)
        self.window: deque[_Totals] = deque()


class _Active:
    """Sums over the active batches of one name."""

    __slots__ = ("batches", "completed", "expected", "failed", "oldest_s")

    def __init__(self) -> None:
        self.batches = 0
        self.completed = 0
        self.failed = 0
        self.expected: int | None = 0
        self.oldest_s = float("inf")


class Groups:
    """Totals of all batches by name, active and ended.

    The loops' threads call `add_ended`, once per batch; the sampler's thread calls `overview`.
    """

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Discard all totals."""
        with self._lock:
            self._groups.clear()

    def add_ended(self, batch: BatchRecord) -> None:
        """Add a batch that has ended to the totals of its name."""
        counts = batch.counts
        with self._lock:
            group = self._group(batch.name)
            status = batch.status if batch.status in group.ended else "failed"
            group.ended[status] += 1
            group.items += sum(counts.values())
            group.failed_items += counts["failed"] + counts["timed_out"]
            group.durations_s.append((batch.finished_ns - batch.started_ns) / 1e9)

    def overview(self, active: Iterable[BatchRecord]) -> Overview:
        """Return a row per name, and totals of all names.

        Args:
            active: Records of the active batches.
        """
        now_s = time.monotonic()
        by_name = _sums(active)
        with self._lock:
            for name in by_name:
                self._group(name)
            groups = list(self._groups.items())
            unnamed = [name for name in by_name if name not in self._groups]
            rows = [self._row(name, group, by_name.get(name), now_s) for name, group in groups if name != _OTHER]
            names = len(rows) + len(unnamed)
            if _OTHER in self._groups:
                rest = _merge([by_name[name] for name in unnamed])
                rows.append(self._row(_OTHER, self._groups[_OTHER], rest, now_s))
        rows.sort(key=lambda row: (-(row["failing"] or 0.0), -row["active"], row["name"]))
        shown = rows[:_MAX_ROWS]
        left = names - sum(row["name"] != _OTHER for row in shown)
        return Overview(shown, left, sum(sums.batches for sums in by_name.values()), len(by_name))

    def _group(self, name: str) -> _Group:
        group = self._groups.get(name)
        if group is None:
            if len(self._groups) >= _MAX_NAMES:
                name = _OTHER
            group = self._groups.setdefault(name, _Group())
        return group

    def _row(self, name: str, group: _Group, active: _Active | None, now_s: float) -> dict[str, Any]:
        active = active or _Active()
        totals = _Totals(
            now_s,
            sum(group.ended.values()),
            group.items + active.completed,
            group.failed_items + active.failed,
        )
        window = group.window
        if len(window) >= 2 and window[-1].at_s - window[-2].at_s < _MIN_STEP_S:
            window[-1] = totals
        else:
            window.append(totals)
        while len(window) > 2 and window[1].at_s <= now_s - WINDOW_S:
            window.popleft()
        before = window[0]
        lasted_s = now_s - before.at_s
        # never below 0: between its last count as active and its count as ended, a batch is in neither sum
        items, failed = max(0, totals.items - before.items), max(0, totals.failed_items - before.failed_items)
        ranked = sorted(group.durations_s)
        return {
            "name": name,
            "active": active.batches,
            "ended": group.ended.copy(),
            "items": totals.items,
            "failed": totals.failed_items,
            "completed": active.completed,
            "expected": active.expected if active.batches else None,
            "oldest_s": round(active.oldest_s, 3) if active.batches else None,
            "item_rate": round(items / lasted_s, 3) if lasted_s > 0 else None,
            "batch_rate": round((totals.batches - before.batches) / lasted_s, 3) if lasted_s > 0 else None,
            "failing": _share(failed, items) if lasted_s > 0 else _share(totals.failed_items, totals.items),
            "p50_s": round(ranked[len(ranked) // 2], 5) if ranked else None,
            "p95_s": round(ranked[int(0.95 * (len(ranked) - 1))], 5) if ranked else None,
        }


def _share(failed: int, items: int) -> float | None:
    return round(min(1.0, failed / items), 4) if items > 0 else None


def _sums(active: Iterable[BatchRecord]) -> dict[str, _Active]:
    by_name: dict[str, _Active] = {}
    for batch in active:
        sums = by_name.get(batch.name)
        if sums is None:
            sums = by_name[batch.name] = _Active()
        counts = batch.counts
        sums.batches += 1
        sums.completed += sum(counts.values())
        sums.failed += counts["failed"] + counts["timed_out"]
        sums.expected = None if sums.expected is None or batch.expected is None else sums.expected + batch.expected
        sums.oldest_s = min(sums.oldest_s, (batch.started_ns + batch.epoch_offset_ns) / 1e9)
    return by_name


def _merge(parts: list[_Active]) -> _Active:
    whole = _Active()
    for part in parts:
        whole.batches += part.batches
        whole.completed += part.completed
        whole.failed += part.failed
        whole.expected = None if whole.expected is None or part.expected is None else whole.expected + part.expected
        whole.oldest_s = min(whole.oldest_s, part.oldest_s)
    return whole
