"""Item tables of the live page: failures, slowest items, items in flight."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any, Final

from flowrt.model import BatchRecord, ItemRecord, Slot
from flowrt.telemetry.live.coroutine_stack import places_of
from flowrt.telemetry.live.redaction import redact

__all__ = ["Failures", "Occupied", "Slowest", "oldest", "running_rows"]

_MAX_FAILURES: Final = 20
_MAX_SLOWEST: Final = 10
_MAX_RUNNING: Final = 30

Occupied = tuple[Slot, ItemRecord]
"""Slot, with the item that it held when it was sampled."""

Row = dict[str, Any]


class Failures:
    """The last items that failed or timed out.

    The loop's thread adds them; the sampler's thread makes the rows. In a burst of failures, items that newer ones
    push out between two samples cost nothing more.

    Args:
        batch: The items' batch.
    """

    __slots__ = ("_batch", "_pending", "rows")

    def __init__(self, batch: BatchRecord) -> None:
        self._batch = batch
        self._pending: deque[tuple[Any, ...]] = deque(maxlen=_MAX_FAILURES)
        self.rows: deque[Row] = deque(maxlen=_MAX_FAILURES)

    def add(self, item: ItemRecord) -> None:
        """Copy the fields that the page shows, so that the item itself can be freed."""
        took_ns = item.finished_ns - item.pulled_ns
        self._pending.append(
            (item.finished_ns, item.index, item.status, item.error_type, item.error, item.ids, item.attempts, took_ns)
        )

    def take(self) -> list[Row]:
        """Return the rows of items added since the last call, oldest first."""
        new: list[Row] = []
        while self._pending:
            finished_ns, index, status, error_type, error, ids, attempts, took_ns = self._pending.popleft()
            row = {
                "at_s": round((finished_ns + self._batch.epoch_offset_ns) / 1e9, 3),
                **_row(index, status, ids, attempts, took_ns),
                "error_type": redact(error_type or ""),
                "error": redact(error or ""),
            }
            new.append(row)
            self.rows.append(row)
        return new


class Slowest:
    """Slowest finished items, found by sampling instead of a hook per item.

    An item that outlasts the sampling interval is always seen while it runs, and its record gives the duration once
    it has ended. Shorter items are seen with a probability that grows with their duration.
    """

    __slots__ = ("_ranked", "_watched")

    def __init__(self) -> None:
        self._watched: list[ItemRecord] = []
        self._ranked: list[tuple[float, int, Row]] = []

    def sample(self, running: list[ItemRecord]) -> None:
        """Rank items that have ended since the last sample, and watch those that run now.

        Args:
            running: The oldest items in flight.
        """
        for item in self._watched:
            if item.status == "ok" and item.finished_ns:
                took_ns = item.finished_ns - item.pulled_ns
                self.add(_row(item.index, item.status, item.ids, item.attempts, took_ns))
        self._watched = running

    def add(self, row: Row) -> None:
        """Rank a finished item."""
        index, took_s = row["index"], row["duration_s"]
        if any(index == known for _, known, _ in self._ranked):
            return
        shown = {key: row[key] for key in ("index", "status", "trace_id", "attempts", "duration_s")}
        ranked = (took_s, index, shown)
        if len(self._ranked) < _MAX_SLOWEST:
            heapq.heappush(self._ranked, ranked)
        else:
            heapq.heappushpop(self._ranked, ranked)

    def rows(self) -> list[Row]:
        """Return the rows, slowest first."""
        return [row for *_, row in sorted(self._ranked, key=lambda ranked: ranked[:2], reverse=True)]


def oldest(occupied: list[Occupied]) -> list[Occupied]:
    """Return the items that were pulled first, as many as the page shows."""
    return heapq.nsmallest(_MAX_RUNNING, occupied, key=_pulled_ns)


def running_rows(occupied: list[Occupied], now_ns: int) -> list[Row]:
    """Return rows of items in flight, with the lines of code at which they wait.

    Args:
        occupied: The items and their slots.
        now_ns: The current time of the batch's clock, in nanoseconds.
    """
    rows: list[Row] = []
    for slot, item in occupied:
        started_ns, task = item.started_ns, slot.task
        places = places_of(task) if started_ns and task is not None else []
        if slot.item is not item:
            continue  # the item ended meanwhile, so the places may belong to the slot's next item
        rows.append(
            {
                "index": item.index,
                "age_s": round(max(0, now_ns - item.pulled_ns) / 1e9, 3),
                "attempt": item.attempts,
                "state": "running" if started_ns else "waiting for a rate limit or an open circuit",
                "trace_id": item.trace_id,
                "places": [{"function": p.function, "file": p.file, "line": p.line} for p in places],
            }
        )
    return rows


def _pulled_ns(occupied: Occupied) -> int:
    return occupied[1].pulled_ns


def _row(index: int, status: str, ids: bytes, attempts: int, took_ns: int) -> Row:
    return {
        "index": index,
        "status": status,
        "trace_id": ids[:16].hex() if ids else None,
        "attempts": attempts,
        "duration_s": round(took_ns / 1e9, 4),
    }
