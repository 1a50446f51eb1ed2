"""Summary of a run on stderr."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from flowrt import BatchReport, BatchResult
from flowrt.reporting.summary import print_rows, summary_rows


def report(*errors: str) -> BatchReport:
    made = BatchReport("enrich")
    for index in range(1000):
        made.add(BatchResult(index, None, success=True, attempts=1, execution_time=0.1))
    for index, error in enumerate(errors):
        made.add(BatchResult(index, None, success=False, status="failed", error="no", error_type=error))
    made.wall_time = 10.0
    return made


def test_summary_has_totals_failures_percentiles_and_speedup() -> None:
    rows = dict(summary_rows(report("ValueError", "ValueError", "KeyError")))
    assert rows["items"] == "1,003"
    assert rows["ok"] == "1,000"
    assert rows["failed"] == "3"
    assert rows["  ValueError"] == "2"
    assert rows["  KeyError"] == "1"
    assert rows["p50"].endswith(" ms")
    assert float(rows["p50"].split()[0]) == pytest.approx(100, rel=0.02)
    assert rows["p95"] == rows["p99"] == rows["p50"]
    assert rows["wall time"] == "10.00 s"
    assert rows["throughput"] == "100.3 items/s"
    assert rows["speedup"] == "10.0x claimed (sum of execution times / wall time)"


def test_throughput_is_given_without_resumed_items_too() -> None:
    resumed = report()
    for index in range(500):
        resumed.add(BatchResult(index, None, success=True, status="resumed"))
    assert dict(summary_rows(resumed))["throughput"] == "150.0 items/s, 100.0 without the resumed items"


def test_error_types_beyond_ten_are_summed() -> None:
    rows = dict(summary_rows(report(*(f"Error{i}" for i in range(14)))))
    assert sum(name.startswith("  Error") for name in rows) == 10
    assert rows["  other"] == "4"


def test_empty_run_has_no_percentiles() -> None:
    names = [name for name, _ in summary_rows(BatchReport())]
    assert names == ["items", "ok", "failed", "wall time", "throughput"]


def test_summary_off_a_terminal_is_aligned_plain_text(capsys: Any) -> None:
    print_rows("enrich", summary_rows(report()))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "items       1,000"
    assert lines[-1].startswith("speedup     10.0x")
    assert "\x1b" not in captured.err


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_summary_without_rich_is_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    print_rows("enrich", summary_rows(report()))
    assert terminal.getvalue().startswith("items       1,000\n")


def test_summary_table_shows_brackets_literally(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    print_rows("enrich", summary_rows(report("[red]Error[/nosuch]")))
    assert "[red]Error[/nosuch]" in terminal.getvalue()
    assert "│" in terminal.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_summary_fits_80_columns(capsys: Any, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    path = f"/srv/{'x' * 90}.jsonl"
    rows = [*summary_rows(report("ValueError")), ("bound by", "90 % of the time all 10 slots were busy; " * 5)]
    print_rows("enrich", [*rows, ("output", path)])
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if len(line) > 80] == [f"output        {path}"], "only a path is not broken"
    assert sum(line.startswith("              ") for line in lines) >= 3, "further lines are aligned"
