"""Report of results in memory, whose records have the timestamps of their last attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowrt.model import BatchRecord, BatchResult, ItemRecord
from flowrt.recording.columns import OUTCOMES
from flowrt.recording.error_groups import NO_CAUSE, ErrorGroups
from flowrt.recording.metadata import describe
from flowrt.recording.slowest import Slowest
from flowrt.reporting.attempts import Attempts, require_numpy
from flowrt.reporting.figures import Detail, detail_of, quantiles
from flowrt.reporting.timeline import make_histogram

__all__ = ["detail_of_results"]


def detail_of_results(results: Sequence[BatchResult], name: str, wall_s: float) -> Detail:
    """Compute the figures of finished results. For a retried item only the last attempt's times are known.

    Args:
        results: Results in any order. Unless all are of one batch of this process, there are no charts over time.
        name: Name of the batch.
        wall_s: Wall time of the batch, in seconds.

    Raises:
        MissingExtraError: numpy is not installed.
    """
    batch = _batch_of(results)
    causes, slowest = ErrorGroups(), Slowest()
    if batch is None:
        return _without_times(results, name, wall_s, causes)
    rows = [_row(item, batch.started_ns, causes, slowest) for item in results if isinstance(item, ItemRecord)]
    limits = [(0, batch.limit)] if batch.limit_change is None else []  # only the last value of a changed limit is kept
    meta = describe(batch, settings={}, causes=causes.found, slowest=slowest.ranked(), limits=limits)
    detail = detail_of(meta, _columns(rows))
    detail.attempts = sum(_calls(item) for item in results)
    return detail


def _batch_of(results: Sequence[BatchResult]) -> BatchRecord | None:
    """Return the batch if all results are records of the same one, else None."""
    first = results[0] if results else None
    if not isinstance(first, ItemRecord):
        return None
    batch = first.batch
    return batch if all(isinstance(item, ItemRecord) and item.batch is batch for item in results) else None


def _row(item: ItemRecord, zero_ns: int, causes: ErrorGroups, slowest: Slowest) -> tuple[int, ...]:
    finished, pulled, started, attempt = item.finished_ns, item.pulled_ns, item.started_ns, _calls(item)
    status = item.status
    took = finished - pulled
    if took > slowest.bar_ns:
        slowest.offer(item, took, finished - zero_ns)
    cause = causes.number_of(item) if status in ("failed", "timed_out") else NO_CAUSE
    ran = bool(started and attempt)
    # results keep no time of the slot: a first attempt has it from its pull, a later one at the latest from its start
    slot = finished if item.cached else pulled if attempt <= 1 else started or finished
    start = started if ran else finished
    return (
        item.index,
        attempt,
        slot - zero_ns,
        start - zero_ns,
        finished - zero_ns,
        ran,
        OUTCOMES.index(status),
        cause,
        pulled - zero_ns,
    )


def _calls(result: BatchResult) -> int:
    """Return the number of the node's calls in this run: 0 for an item that the journal restored."""
    if isinstance(result, ItemRecord) and not result.started_ns and not result.first_started_ns:
        return 0
    return 0 if result.status == "resumed" else result.attempts


def _columns(rows: list[tuple[int, ...]]) -> Attempts:
    np = require_numpy("a report with charts")
    rows.sort(key=lambda row: row[4])
    table: Any = np.array(rows, np.int64).reshape(len(rows), 9)
    index, attempt, slot, start, end, ran, outcome, cause, pulled = (table[:, column] for column in range(9))
    return Attempts(
        index=index,
        attempt=attempt,
        arrival=slot,
        slot=slot,
        start=start,
        end=end,
        ran=ran.astype(bool),
        outcome=outcome,
        cause=cause,
        last=np.ones(len(rows), bool),
        pulled=pulled,
        hedge=np.zeros(len(rows), bool),
    )


def _without_times(results: Sequence[BatchResult], name: str, wall_s: float, causes: ErrorGroups) -> Detail:
    np = require_numpy("a report with charts")
    counts = dict.fromkeys(OUTCOMES, 0)
    for result in results:
        counts[result.status] += 1
        if result.status in ("failed", "timed_out"):
            causes.number_of(result)
    service = np.array([result.execution_time * 1e9 for result in results if _calls(result)]).astype(np.int64)
    ok = np.array([result.success for result in results if _calls(result)], bool)
    retried = [result for result in results if _calls(result) > 1]
    return Detail(
        name=name,
        wall_s=wall_s,
        counts=counts,
        attempts=sum(_calls(result) for result in results),
        service=quantiles(service),
        busy_s=float(service.sum()) / 1e9,
        causes=sorted(
            ({**cause, "items": cause["count"], "attempts": cause["count"]} for cause in causes.found),
            key=lambda cause: -int(cause["items"]),
        ),
        retries={"items": len(retried), "recovered": sum(result.success for result in retried), "by_attempts": {}},
        histogram=make_histogram(service, ok),
    )
