"""The items worth a row on the live page: failed ones, the slowest, those in flight."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any, Final

from flowrt.model import BatchRecord, ItemRecord, Slot
from flowrt.telemetry.live.coroutine_stack import places_of
from flowrt.telemetry.live.redaction import redact

__all__ = ["Failures", "Occupied", "Slowest", "oldest", "running_rows"]

_MOST_FAILURES: Final = 20
_MOST_SLOW: Final = 10
_MOST_RUNNING: Final = 30

Occupied = tuple[Slot, ItemRecord]
"""A slot and the item that was in it when it was looked at."""

Row = dict[str, Any]


class Failures:
    """The last items that failed or timed out.

    The loop's thread notes them, the sampler's thread makes rows of them; of a flood, what was pushed out before it
    was looked at costs nothing more.

    Args:
        batch: Their batch.
    """

    __slots__ = ("_batch", "_noted", "rows")

    def __init__(self, batch: BatchRecord) -> None:
        self._batch = batch
        self._noted: deque[tuple[Any, ...]] = deque(maxlen=_MOST_FAILURES)
        self.rows: deque[Row] = deque(maxlen=_MOST_FAILURES)

    def note(self, item: ItemRecord) -> None:
        """Keep what is shown of the item, and nothing else of it alive."""
        took_ns = item.finished_ns - item.pulled_ns
        self._noted.append(
            (item.finished_ns, item.index, item.status, item.error_type, item.error, item.ids, item.attempts, took_ns)
        )

    def take(self) -> list[Row]:
        """Rows of the items noted since the last time, oldest first."""
        new: list[Row] = []
        while self._noted:
            finished_ns, index, status, error_type, error, ids, attempts, took_ns = self._noted.popleft()
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
    """The slowest items that have ended, found without a hook.

    An item that lasts longer than the time between two looks is seen while it runs, and its record says in the end how
    long it took; of shorter ones the longer are the likelier to be seen.
    """

    __slots__ = ("_ranked", "_watched")

    def __init__(self) -> None:
        self._watched: list[ItemRecord] = []
        self._ranked: list[tuple[float, int, Row]] = []

    def look(self, running: list[ItemRecord]) -> None:
        """Rank those that were running at the last look and have ended, and remember those that run now.

        Args:
            running: The oldest in flight.
        """
        for item in self._watched:
            if item.status == "ok" and item.finished_ns:
                took_ns = item.finished_ns - item.pulled_ns
                self.add(_row(item.index, item.status, item.ids, item.attempts, took_ns))
        self._watched = running

    def add(self, row: Row) -> None:
        """Rank an item that has ended."""
        index, took_s = row["index"], row["duration_s"]
        if any(index == known for _, known, _ in self._ranked):
            return
        shown = {key: row[key] for key in ("index", "status", "trace_id", "attempts", "duration_s")}
        ranked = (took_s, index, shown)
        if len(self._ranked) < _MOST_SLOW:
            heapq.heappush(self._ranked, ranked)
        else:
            heapq.heappushpop(self._ranked, ranked)

    def rows(self) -> list[Row]:
        """Slowest first."""
        return [row for *_, row in sorted(self._ranked, key=lambda ranked: ranked[:2], reverse=True)]


def oldest(occupied: list[Occupied]) -> list[Occupied]:
    """Those that were pulled first, as many as are shown."""
    return heapq.nsmallest(_MOST_RUNNING, occupied, key=_pulled_ns)


def running_rows(occupied: list[Occupied], now_ns: int) -> list[Row]:
    """Rows of items in flight, with the lines of code at which they wait.

    Args:
        occupied: The items and their slots.
        now_ns: The time, by the batch's clock.
    """
    rows: list[Row] = []
    for slot, item in occupied:
        started_ns, task = item.started_ns, slot.task
        places = places_of(task) if started_ns and task is not None else []
        if slot.item is not item:
            continue  # it ended while we looked: the places are another item's
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
