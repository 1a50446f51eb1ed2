"""The report as text."""

from __future__ import annotations

import io

from flowrt.reporting.detail import Detail
from flowrt.reporting.notebook import fragment_of
from flowrt.reporting.terminal import print_report, sparkline, text_of
from flowrt.reporting.units import duration, percent, unit_of
from flowrt.reporting.why import what_failed, why_slow


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_begins_with_what_failed_and_why_it_took_so_long(detail: Detail) -> None:
    lines = text_of(detail).splitlines()
    assert lines[2] == "What failed"
    assert lines[3].strip().startswith("1 of 20 items (5.0 %): 1 failed.")
    assert "ValueError" in lines[4]
    slow = lines.index("Why it took as long as it did")
    assert "slots stood empty while the last items ran" in lines[slow + 1]


def test_a_control_character_in_a_name_or_an_error_reaches_no_terminal(detail: Detail) -> None:
    detail.name = "crawl\x1b[31m\nred"
    detail.causes[0]["text"] = "\x1b]0;owned\x07"
    for out in (io.StringIO(), Terminal()):
        print_report(detail, out)
        assert "\x1b]0" not in out.getvalue()
        assert "\x1b[31m\n" not in out.getvalue()


def test_brackets_in_an_error_are_no_markup(detail: Detail) -> None:
    detail.causes[0]["text"] = "[/bold] [red]x"
    out = Terminal()
    print_report(detail, out)
    assert "[red]x" in out.getvalue()


def test_a_notebook_shows_escaped_texts_and_runs_nothing(detail: Detail) -> None:
    fragment = fragment_of(detail)
    assert "<script" not in fragment
    assert "<img" not in fragment
    assert "What failed" in fragment


def test_nothing_failed_is_said(detail: Detail) -> None:
    detail.counts = {"ok": 3}
    assert what_failed(detail)[0].startswith("Nothing: all 3 items ended well.")


def test_advice_is_given_where_the_ledger_supports_it_only(detail: Detail) -> None:
    detail.wall_s = 10.0
    detail.bound = {"slots": 9.0, "rate_limit": 0.4, "service": 0.6}
    headline, advice = why_slow(detail)
    assert "90\u00a0%" in headline
    assert len(advice) == 1
    assert "max_concurrency above 4" in advice[0]
    detail.bound = {"service": 10.0}
    assert why_slow(detail)[1] == []


def test_times_and_shares_read_well() -> None:
    assert [duration(s) for s in (0, 3.4e-7, 0.00034, 0.0123, 4.563, 59.99, 725, 12_000)] == [
        "0 s", "340 ns", "340 µs", "12.3 ms", "4.56 s", "60.0 s", "12 min 5 s", "3 h 20 min",
    ]  # fmt: skip
    assert [percent(s).replace("\u00a0", " ") for s in (0, 0.0001, 0.056, 0.5, 0.9999, 1)] == [
        "0 %", "under 0.1 %", "5.6 %", "50 %", "over 99.9 %", "100 %",
    ]  # fmt: skip
    assert [unit_of(s).short for s in (10, 600, 40_000)] == ["s", "min", "h"]
    assert sparkline([0, 1, 8]) == " ▁█"
    assert len(sparkline([1.0] * 240)) == 60
