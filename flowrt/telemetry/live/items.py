"""Item tables of the live page: failures, slowest items, items in flight."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any, Final

from flowrt.model import BatchRecord, ItemRecord, Slot
from flowrt.policies.error_classification import status_of
from flowrt.recording.error_groups import template_of
from flowrt.telemetry.live.coroutine_stack import places_of
from flowrt.telemetry.redaction import Redact, shorten

__all__ = ["Failures", "Occupied", "Slowest", "oldest", "running_rows"]

_MAX_FAILURES: Final = 20
_MAX_PENDING: Final = 1_000  # failed items between two samples
_MAX_CAUSES: Final = 20
_MAX_TYPES: Final = 50
_OTHER_TYPE: Final = "_OTHER"
_ERROR_CHARS: Final = 2_000  # of an error's text: pending texts must not hold megabytes
_MAX_SLOWEST: Final = 10
_MAX_RUNNING: Final = 30

Occupied = tuple[Slot, ItemRecord]
"""Slot, with the item that it held when it was sampled."""

Row = dict[str, Any]


class Failures:
    """Items that failed or timed out: counts by type and by cause, and rows of the last ones.

    The loop's thread calls `add`; the sampler's thread calls `take` and reads everything else. In a burst, items that
    newer ones push out between two samples are counted by type, but not by cause.

    Args:
        batch: The items' batch.
        redact: Removes secrets from error texts; it must not raise.

    Attributes:
        rows: The last items that failed, oldest first.
        by_type: Number of failed items by error type.
        ungrouped: Number of failed items that no cause counts.
    """

    __slots__ = (
        *("_added", "_batch", "_by_text", "_causes", "_pending", "_redact", "_taken"),
        *("by_type", "rows", "ungrouped"),
    )

    def __init__(self, batch: BatchRecord, redact: Redact) -> None:
        self._batch = batch
        self._redact = redact
        self._pending: deque[tuple[Any, ...]] = deque(maxlen=_MAX_PENDING)
        self._added = 0
        self._taken = 0
        self._causes: dict[tuple[str, str], Row] = {}
        self._by_text: dict[tuple[str, int | None, str], Row] = {}
        self.by_type: dict[str, int] = {}
        self.rows: deque[Row] = deque(maxlen=_MAX_FAILURES)
        self.ungrouped = 0

    def add(self, item: ItemRecord) -> None:
        """Copy the fields that the page shows, so that the item and its exception can be freed."""
        error_type = item.error_type or "Error"
        if error_type not in self.by_type and len(self.by_type) >= _MAX_TYPES:
            error_type = _OTHER_TYPE
        self.by_type[error_type] = self.by_type.get(error_type, 0) + 1
        http_status = None if item.exception is None else status_of(item.exception)
        error = (item.error or "")[:_ERROR_CHARS]
        shown = (item.index, item.status, item.ids, item.attempts, item.finished_ns - item.pulled_ns)
        self._pending.append((item.finished_ns, shown, error_type, error, http_status))
        self._added += 1

    def take(self) -> list[Row]:
        """Process the items added since the last call; return their rows, oldest first, without their errors."""
        new: list[Row] = []
        added = self._added  # first: an item that is added meanwhile was not too fast
        while self._pending:
            finished_ns, shown, error_type, error, http_status = self._pending.popleft()
            at_s = round((finished_ns + self._batch.epoch_offset_ns) / 1e9, 3)
            row = {"at_s": at_s, **_row(*shown)}
            self._count(row, error_type, error, http_status)
            new.append(row)
            if len(self._pending) < _MAX_FAILURES:
                self.rows.append({**row, "error_type": self._shown(error_type), "error": self._shown(error)})
        self._taken += len(new)
        self.ungrouped = max(0, added - self._taken)
        return new

    def causes(self) -> list[Row]:
        """Return the causes with a count and an example, the most frequent first."""
        return sorted(self._causes.values(), key=lambda cause: -cause["count"])

    def _shown(self, text: str) -> str:
        return shorten(self._redact(text))

    def _count(self, row: Row, error_type: str, error: str, http_status: int | None) -> None:
        """Add an item to its cause: error type, and message without the parts that vary."""
        key = (error_type, http_status, error)
        cause = self._by_text.get(key)
        if cause is None:
            template = template_of(error, http_status)
            cause = self._causes.get((error_type, template))
            if cause is None and len(self._causes) >= _MAX_CAUSES:
                error_type, template = _OTHER_TYPE, "other causes"
                cause = self._causes.get((error_type, template))
            if cause is None:
                cause = self._causes[error_type, template] = {
                    **row,
                    "count": 0,
                    "type": self._shown(error_type),
                    # redacted first: the parts that vary are removed from a secret only in part
                    "text": template if error_type == _OTHER_TYPE else template_of(self._shown(error), http_status),
                    "error": self._shown(error),
                }
            if len(self._by_text) >= _MAX_PENDING:  # distinct messages need not be remembered
                self._by_text.clear()
            self._by_text[key] = cause
        cause["count"] += 1
        cause["last_s"] = row["at_s"]


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
                "state": _state(item, started_ns),
                "trace_id": item.trace_id,
                "places": [{"function": p.function, "file": p.file, "line": p.line} for p in places],
            }
        )
    return rows


def _state(item: ItemRecord, started_ns: int) -> str:
    if started_ns:
        return "running"
    policy = "waiting for a rate limit or an open circuit"
    if item.batch.in_process or not item.attempts:
        return policy
    return (
        "waiting in its worker"
        if item.retry is None
        else f"waiting in its worker, or {policy.removeprefix('waiting ')}"
    )


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
