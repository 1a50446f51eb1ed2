"""Conditions of `--fail-if`."""

from __future__ import annotations

import pytest

from flowrt import BatchResult
from flowrt.cli.options.fail_if import Condition
from flowrt.reporting.report import BatchReport


@pytest.fixture
def report() -> BatchReport:
    """Report of 100 items in 20 s: item N took N ms, one failed, one timed out, one was cancelled without starting."""
    report = BatchReport()
    for index in range(1, 101):
        status = {98: "failed", 99: "timed_out", 100: "cancelled"}.get(index, "ok")
        report.add(
            BatchResult(
                index,
                None,
                success=status == "ok",
                status=status,  # type: ignore[arg-type]
                error=None if status == "ok" else "broken",
                error_type=None if status == "ok" else "ValueError",
                attempts=0 if status == "cancelled" else 1,
                execution_time=index / 1_000,
            )
        )
    report.wall_time = 20.0
    return report


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("failed>2", "failed>2 (3)"),
        ("failed > 2%", "failed > 2% (3.0\u00a0%)"),
        ("failed>=3", "failed>=3 (3)"),
        ("failed>3", None),
        ("failed>3%", None),
        ("failed>1_000", None),
        ("timed_out>0", "timed_out>0 (1)"),
        ("cancelled>0.5%", "cancelled>0.5% (1.0\u00a0%)"),
        ("p50<40ms", None),
        ("p95>90ms", "p95>90ms (93.8 ms)"),
        ("p95>0.09", "p95>0.09 (93.8 ms)"),
        ("p99.9>1s", None),
        ("mean<=60ms", "mean<=60ms (50.0 ms)"),
        ("max>=0.099s", "max>=0.099s (99.0 ms)"),
        ("duration>19s", "duration>19s (20.0 s)"),
        ("duration>1min", None),
        ("rate<6/s", "rate<6/s (5.0/s)"),
        ("rate<200/min", None),
        ("rate>4", "rate>4 (5.0/s)"),
    ],
)
def test_condition_is_met_by_the_figures_of_the_run(report: BatchReport, text: str, shown: str | None) -> None:
    assert Condition.parse(text).check(report) == shown


@pytest.mark.parametrize("text", ["p95<1s", "max<1s", "failed>0%"])
def test_run_without_items_meets_no_condition_on_them(text: str) -> None:
    assert Condition.parse(text).check(BatchReport()) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no condition: write failed>1%, p95>2s or rate<10/s, with >, >=, < or <="),
        ("failed", "is no condition"),
        ("failed=1", "is no condition"),
        ("failed>-1", "is no condition"),
        ("failed>1%x", "is no condition"),
        ("errors>1", "begins with 'errors', which is none of failed, timed_out, cancelled, p50 to p99.9, mean, max"),
        ("p100>1s", "begins with 'p100'"),
        ("p0>1s", "begins with 'p0'"),
        ("failed>2s", "compares failed with 's': write a number of items or a share, like failed>10 or failed>1%"),
        ("p95>1%", "compares p95 with '%': write a time, like p95>2s or p95>250ms"),
        ("rate<5s", "compares rate with 's': write items per time, like rate<10/s"),
        ("duration>2days", "compares duration with 'days'"),
        ("failed>101%", "more than 100 %, which no run reaches"),
    ],
)
def test_other_text_is_refused_with_the_fix(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"condition|begins|compares") as raised:
        Condition.parse(text)
    assert message in str(raised.value)
