"""Figures of a report equal those of the batch."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flowrt import AdaptiveLimit, BatchProcessor, RateLimit, RetryPolicy
from flowrt.reporting.figures import Detail
from flowrt.reporting.from_results import detail_of_results
from tests.conftest import Run

from .conftest import Load, fails_once, job


def test_totals_attempts_and_retries(detail: Detail) -> None:
    assert (detail.total, detail.succeeded, detail.failed) == (20, 19, 1)
    assert detail.attempts == 21
    assert detail.retries == {"items": 1, "recovered": 1, "by_attempts": {1: 19, 2: 1}}
    assert detail.status == "failed"
    assert detail.busy_s == pytest.approx(19 * 0.1 + 2.0 + 0.1, abs=1e-6)
    assert detail.throughput == pytest.approx(20 / detail.wall_s)


def test_causes_count_items_and_attempts(detail: Detail) -> None:
    assert [(c["type"], c["items"], c["attempts"]) for c in detail.causes] == [
        ("ValueError", 1, 1),
        ("ConnectionError", 0, 1),
    ]


def test_item_duration_includes_its_backoff(detail: Detail) -> None:
    assert detail.service["max"] == pytest.approx(2.0, abs=1e-6)
    slowest = detail.slowest[0]
    assert (slowest["index"], round(slowest["duration"], 3)) == (3, 2.0)
    (again,) = [item for item in detail.slowest if item["index"] == 7]
    assert again["duration"] == pytest.approx(0.5, abs=1e-6)


def test_timeline_adds_up(detail: Detail) -> None:
    line = detail.timeline
    assert line is not None
    width = line.edges[1]
    assert sum(line.ended["ok"]) * width == pytest.approx(19)
    assert sum(line.ended["failed"]) * width == pytest.approx(1)
    assert sum(line.running) * width == pytest.approx(detail.busy_s, rel=1e-6)
    assert max(line.running) == pytest.approx(4, abs=0.01)


def test_input_is_exhausted_at_the_last_pull_despite_retries(run_virtual: Run, tmp_path: Path, load: Load) -> None:
    async def node(x: int) -> int:
        calls.append(x)
        await asyncio.sleep(0.1)
        if x == 0 and calls.count(0) < 3:
            raise ConnectionError("not yet")
        return x

    calls: list[int] = []
    path = tmp_path / "run.parquet"
    run_virtual(BatchProcessor(node, 4, retry=RetryPolicy(3, wait=lambda _: 20.0), record=path).batch(range(12)))
    timeline = load(path).timeline
    assert timeline is not None
    assert timeline.edges[-1] > 40
    assert timeline.dry_s == pytest.approx(0.2)


def test_rate_limit_waits_are_separate(run_virtual: Run, tmp_path: Path, load: Load) -> None:
    path = tmp_path / "run.parquet"
    run_virtual(BatchProcessor(job, 4, rate_limit=RateLimit(2, per=1.0), record=path).batch(range(3)))
    detail = load(path)
    assert detail.throttled_s == pytest.approx(1.0, abs=0.05)
    assert detail.waiting["max"] == pytest.approx(1.0, abs=0.05)
    line = detail.timeline
    assert line is not None
    assert sum(line.limited) * line.edges[1] == pytest.approx(detail.throttled_s, rel=0.01)


def test_ledger_sums_to_the_wall_time(detail: Detail) -> None:
    assert sum(detail.bound.values()) == pytest.approx(detail.wall_s, rel=1e-6)
    assert sum(end - begin for begin, end, _ in detail.bound_timeline) == pytest.approx(detail.wall_s, rel=1e-6)


def test_figures_are_valid_json(detail: Detail) -> None:
    again = json.loads(json.dumps(detail.as_dict(), allow_nan=False))
    assert again["total"] == 20
    assert again["causes"][0]["examples"][0]["index"] == 5


def test_results_in_memory_equal_their_recording(run_virtual: Run, tmp_path: Path, load: Load) -> None:
    path = tmp_path / "run.parquet"
    results = run_virtual(BatchProcessor(fails_once(100), 4, record=path).batch(range(20)))
    memory, file = detail_of_results(results, "job", results.wall_time), load(path)
    for name in ("counts", "service", "duration", "wall_s", "bound", "attempts"):
        assert getattr(memory, name) == getattr(file, name), name
    assert memory.timeline is not None
    assert file.timeline is not None
    assert memory.timeline.as_dict() == file.timeline.as_dict()


def test_results_in_memory_exclude_attempts_of_resumed_runs(run_virtual: Run, tmp_path: Path, load: Load) -> None:
    path = tmp_path / "run.parquet"
    settings: dict[str, Any] = {"journal": tmp_path / "journal", "retry": RetryPolicy(2, wait=lambda _: 0.3)}
    run_virtual(BatchProcessor(fails_once(7), 4, **settings).batch(range(10)))
    results = run_virtual(BatchProcessor(fails_once(7), 4, record=path, **settings).batch(range(20)))
    memory, file = detail_of_results(results, "job", results.wall_time), load(path)
    assert file.counts == {"ok": 10, "failed": 1, "timed_out": 0, "cancelled": 0, "resumed": 9}
    assert file.attempts == 10
    for name in ("counts", "service", "duration", "attempts", "retries"):
        assert getattr(memory, name) == getattr(file, name), name


def test_results_in_memory_count_attempts_and_omit_changed_limits(run_virtual: Run) -> None:
    retry = RetryPolicy(2, wait=lambda _: 0.3)
    results = run_virtual(BatchProcessor(fails_once(7), AdaptiveLimit(2, 40), retry=retry).batch(range(100)))
    detail = detail_of_results(results, "job", results.wall_time)
    assert detail.attempts == sum(result.attempts for result in results) == 102
    assert results.batch.limit != 2
    assert detail.limits == []
    fixed = run_virtual(BatchProcessor(job, 4).batch(range(3)))
    assert detail_of_results(fixed, "job", fixed.wall_time).limits == [(0.0, 4)]


def test_results_without_records_have_totals_only() -> None:
    from flowrt import BatchResult

    results = [
        BatchResult(0, 1, success=True, execution_time=0.5, attempts=1),
        BatchResult(1, 2, False, error="no"),
        BatchResult(2, 3, True, status="resumed", execution_time=9.0, attempts=2),
    ]
    detail = detail_of_results(results, "job", 1.0)
    assert (detail.succeeded, detail.failed, detail.timeline) == (2, 1, None)
    assert detail.service["max"] == 0.5
    assert (detail.attempts, detail.retries["items"]) == (1, 0)


def test_empty_batch_has_a_report(run_virtual: Run, tmp_path: Path, load: Load) -> None:
    path = tmp_path / "run.parquet"
    results = run_virtual(BatchProcessor(job, 4, record=path).batch([]))
    assert load(path).total == 0
    assert "No item ended." in results.report.text()
