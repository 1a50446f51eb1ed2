"""BatchReport: totals and ratios."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt import BatchReport, BatchResult
from flowrt.model import STATUSES, Status


def result(
    status: Status = "ok", seconds: float = 0.5, error_type: str | None = None, attempts: int = 1
) -> BatchResult:
    success = status in ("ok", "resumed")
    return BatchResult(
        0,
        None,
        success,
        error=None if success else "why",
        status=status,
        error_type=error_type,
        execution_time=seconds,
        attempts=attempts,
    )


def test_only_ok_and_resumed_count_as_succeeded() -> None:
    report = BatchReport.of([result(status) for status in STATUSES])
    assert report.counts == {"ok": 1, "failed": 1, "timed_out": 1, "cancelled": 1, "resumed": 1}
    assert (report.total, report.succeeded, report.failed) == (5, 2, 3)
    assert report.success_rate == 0.4


def test_errors_counts_failures_by_type() -> None:
    report = BatchReport.of(
        [
            result("failed", error_type="ValueError"),
            result("timed_out", error_type="TimeoutError"),
            result("failed", error_type="ValueError"),
            result("resumed", error_type="ValueError"),
            result(),
        ]
    )
    assert report.errors == {"ValueError": 2, "TimeoutError": 1}


def test_throughput_and_speedup_divide_by_the_wall_time() -> None:
    report = BatchReport.of([result(seconds=0.5) for _ in range(20)], "calls", wall_time=2.0)
    assert (report.name, report.wall_time) == ("calls", 2.0)
    assert report.throughput == 10
    assert report.claimed_speedup == pytest.approx(20 * 0.5 / 2)
    assert report.service_times.at(0.5) == pytest.approx(0.5, rel=0.02)


def test_item_that_never_ran_has_no_service_time() -> None:
    report = BatchReport.of([result(seconds=1.0), result("cancelled", seconds=0.0, attempts=0)], wall_time=1.0)
    assert report.service_times.count == 1
    assert report.service_times.at(0.0) == pytest.approx(1.0, rel=0.02)
    assert report.throughput == 2, "a cancelled item counts as finished"


def test_ratios_are_0_while_the_wall_time_is_unknown() -> None:
    report = BatchReport.of([result()])
    assert (report.wall_time, report.throughput, report.claimed_speedup) == (0, 0, 0)


def test_empty_batch_is_a_success_with_zero_figures() -> None:
    report = BatchReport("nothing")
    assert (report.total, report.succeeded, report.failed, report.success_rate) == (0, 0, 0, 1)
    assert (report.throughput, report.claimed_speedup, report.service_times.at(0.99)) == (0, 0, 0)
    assert repr(report) == "<BatchReport 'nothing': no items, 0.000 s>"


def test_repr_is_one_line() -> None:
    results = [result("failed"), *[result()] * 1_234]
    assert repr(BatchReport.of(results, "calls", 1.5)) == "<BatchReport 'calls': 1,234 ok, 1 failed, 1.500 s>"


statuses = st.lists(st.sampled_from(STATUSES), max_size=50)


@given(statuses, st.data())
def test_order_of_results_does_not_change_the_totals(names: list[Status], data: st.DataObject) -> None:
    results = [result(status, seconds=place / 10, error_type=f"E{place % 3}") for place, status in enumerate(names)]
    whole, added = BatchReport.of(results), BatchReport()
    for each in data.draw(st.permutations(results)):
        added.add(each)
    assert (added.counts, added.errors) == (whole.counts, whole.errors)
    assert added.total == len(results) == added.succeeded + added.failed
    assert added.service_times.count == whole.service_times.count
    assert added.service_times.total == pytest.approx(whole.service_times.total)


def test_report_size_does_not_grow_with_the_batch() -> None:
    def results(count: int) -> Iterator[BatchResult]:
        return (result(seconds=(place % 100 + 1) / 10) for place in range(count))

    short, long = BatchReport.of(results(1_000)), BatchReport.of(results(20_000))
    assert (short.total, long.total) == (1_000, 20_000)
    assert sys.getsizeof(long.service_times._buckets) == sys.getsizeof(short.service_times._buckets)
    assert vars(long).keys() == vars(short).keys()
    assert not [value for value in vars(long).values() if isinstance(value, list)], "no result is kept"
