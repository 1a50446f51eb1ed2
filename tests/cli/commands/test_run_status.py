"""Lines and summary of `flowrt run` on stderr."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.file_proxy import FileProxy

from flowrt.cli.commands.run_status import FailureLines, StatusLines
from flowrt.cli.commands.run_summary import run_rows
from flowrt.cli.io.shared_stderr import SharedStderr
from flowrt.cli.main import main
from flowrt.model import BatchResult
from flowrt.reporting.report import BatchReport

Flowrt = Callable[..., "subprocess.CompletedProcess[str]"]


def failed(index: int, kind: str = "ValueError", error: str = "broken") -> BatchResult:
    return BatchResult(index, None, success=False, error=error, error_type=kind, attempts=1)


def report(*, ok: int = 0, failures: tuple[str, ...] = ()) -> BatchReport:
    totals = BatchReport("jobs")
    for index in range(ok):
        totals.add(BatchResult(index, None, success=True, attempts=1))
    for index, kind in enumerate(failures, ok):
        totals.add(failed(index, kind))
    totals.wall_time = 1.0
    return totals


@pytest.mark.parametrize(
    ("expected", "elapsed_s", "line"),
    [
        (None, 10.0, "100 items, 10.0/s, 0 failed"),
        (1000, 10.0, "100 of 1,000 items, 10.0/s, 0 failed, about 2 min left"),
        (200, 10.0, "100 of 200 items, 10.0/s, 0 failed, about 10 s left"),
        (100_000, 10.0, "100 of 100,000 items, 10.0/s, 0 failed, about 2.8 h left"),
    ],
)
def test_status_line_has_count_rate_failures_and_time_left(expected: int | None, elapsed_s: float, line: str) -> None:
    assert StatusLines(report(ok=100), expected, active=True).line(elapsed_s) == line


def test_status_line_is_printed_every_30_seconds(run_virtual: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async def sleep(active: bool) -> None:
        with StatusLines(report(ok=3), 5, active=active):
            await asyncio.sleep(95)

    run_virtual(sleep(True))
    assert capsys.readouterr().err.splitlines() == [
        "flowrt: 3 of 5 items, 0.1/s, 0 failed, about 20 s left",
        "flowrt: 3 of 5 items, 0.1/s, 0 failed, about 40 s left",
        "flowrt: 3 of 5 items, 0.0/s, 0 failed, about 60 s left",
    ]
    run_virtual(sleep(False))
    assert capsys.readouterr().err == ""


def test_failures_of_a_kind_are_folded_into_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = FailureLines(active=True)
    for index in range(312):
        lines.add(failed(index, error=f"{index} is\nodd"))
    lines.add(failed(400, "TimeoutError", "too slow"))
    lines.close()
    assert capsys.readouterr().err.splitlines() == [
        "flowrt: item 0: ValueError: 0 is; odd",
        "flowrt: item 400: TimeoutError: too slow",
        "flowrt: ValueError: + 311 more like it",
    ]


def test_run_prints_the_verdict_first_and_folds_failures(folder: Path, flowrt: Flowrt) -> None:
    (folder / "in.jsonl").write_text("".join(f"{i}\n" for i in range(10)))
    done = flowrt("run", "nodes:odd_fails", "in.jsonl", "-o", "out", "--max-concurrency", 1)
    lines = done.stderr.splitlines()
    assert lines[0] == "flowrt: item 1: ValueError: 1 is odd"
    assert lines[1] == "flowrt: ValueError: + 4 more like it"
    assert lines[2].split(maxsplit=1) == ["result", "failed: 5 of 10 items (ValueError 5)"]


def test_verdict_is_ok_or_names_the_causes() -> None:
    assert run_rows(report(ok=3), [], complete=True)[0] == ("result", "ok")
    rows = run_rows(report(ok=1, failures=("A", "A", "B", "C", "D")), [], complete=False)
    assert rows[0] == ("result", "failed: 5 of 6 items (A 2, B 1, C 1, ...); not complete")


def test_advice_comes_last_and_has_at_most_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    explanation = "the rate limit held 80 %; the input 10 %; the tail 5 %"
    monkeypatch.setattr(BatchReport, "explanation", explanation)
    rows = run_rows(report(ok=1), [("spans", "1 of 1 delivered")], complete=True)
    assert rows[-3:] == [
        ("spans", "1 of 1 delivered"),
        ("bound by", "the rate limit held 80 %"),
        ("", "the input 10 %"),
    ]


def test_log_lines_follow_the_stream_that_draws_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, above_the_bar = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    shared = SharedStderr(terminal)
    shared.install()
    kept = sys.stderr
    kept.write("start\n")
    shared.uninstall()
    assert sys.stderr is terminal
    monkeypatch.setattr(sys, "stderr", above_the_bar)
    kept.write("during\n")
    monkeypatch.setattr(sys, "stderr", terminal)
    kept.write("after\n")
    assert (terminal.getvalue(), above_the_bar.getvalue()) == ("start\nafter\n", "during\n")
    assert not kept.isatty()


def test_message_during_a_progress_bar_is_printed_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    above_the_bar = io.StringIO()
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stderr", FileProxy(Console(file=above_the_bar), terminal))
    FailureLines(active=True).add(failed(1))
    assert above_the_bar.getvalue() == "flowrt: item 1: ValueError: broken\n"
    assert terminal.buffer.getvalue() == b""  # type: ignore[attr-defined]


def test_help_of_run_fits_two_screens_in_groups() -> None:
    text = CliRunner().invoke(main, ["run", "--help"], terminal_width=100).output
    assert len(text.splitlines()) <= 2 * 43
    headings = [line.strip(":") for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Input", "Output", "Execution", "Journal", "Telemetry", "Display"]
    assert max(map(len, text.splitlines())) <= 100
