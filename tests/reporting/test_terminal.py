"""Report as text."""

from __future__ import annotations

import io

from flowrt.reporting.answers import what_failed, why_slow
from flowrt.reporting.figures import Detail
from flowrt.reporting.notebook import fragment_of
from flowrt.reporting.terminal import print_report, sparkline, text_of
from flowrt.reporting.units import duration, percent, unit_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_report_begins_with_failures_and_the_main_cause(detail: Detail) -> None:
    lines = text_of(detail).splitlines()
    assert lines[2] == "What failed"
    assert lines[3].strip().startswith("1 of 20 items (5.0 %): 1 failed.")
    assert "ValueError" in lines[4]
    slow = lines.index("Why it took as long as it did")
    assert "of items took" in lines[slow + 1]


def test_control_characters_never_reach_the_terminal(detail: Detail) -> None:
    detail.name = "crawl\x1b[31m\nred"
    detail.causes[0]["text"] = "\x1b]0;owned\x07"
    for out in (io.StringIO(), Terminal()):
        print_report(detail, out)
        assert "\x1b]0" not in out.getvalue()
        assert "\x1b[31m\n" not in out.getvalue()


def test_report_shows_brackets_literally(detail: Detail) -> None:
    detail.causes[0]["text"] = "[/bold] [red]x"
    out = Terminal()
    print_report(detail, out)
    assert "[red]x" in out.getvalue()


def test_notebook_fragment_is_escaped_and_has_no_script(detail: Detail) -> None:
    fragment = fragment_of(detail)
    assert "<script" not in fragment
    assert "<img" not in fragment
    assert "What failed" in fragment


def test_report_says_that_nothing_failed(detail: Detail) -> None:
    detail.status, detail.counts = "ok", {"ok": 3}
    assert what_failed(detail)[0].startswith("Nothing: all 3 items ended ok.")
    detail.counts = {"ok": 1}
    assert what_failed(detail)[0].startswith("Nothing: the item ended ok.")
    detail.status = "failed"
    assert what_failed(detail)[0] == "No item that ran, but the batch ended before its input did."


def test_explanation_gives_a_headline_and_a_line_per_cause(detail: Detail) -> None:
    detail.wall_s, detail.explanation = (
        10.0,
        "62 % of the time all 4 slots were busy: raise max_concurrency; 21 % waited",
    )
    headline, lines = why_slow(detail)
    assert headline == "It took 10.0 s. 62 % of the time all 4 slots were busy: raise max_concurrency."
    assert lines[0] == "21 % waited."
    assert "flowrt whatif" in lines[1]
    detail.explanation = ""
    assert why_slow(detail) == ("It took 10.0 s, 2.0 items a second.", [])


def test_report_explains_an_overstated_speedup(detail: Detail) -> None:
    detail.speedup = {"claimed": 9.1, "measured": 1.0, "low": 1.0, "high": 1.1, "method": "held"}
    detail.overstated = "node 'job' blocked the event loop for 95 % of the time"
    assert "The speedup is 1.0x, not the claimed 9.1x: node 'job' blocked" in why_slow(detail)[1][-1]
    detail.speedup |= {"measured": None, "high": 2.0}
    assert "The speedup is at most 2.0x, not the claimed 9.1x" in why_slow(detail)[1][-1]


def test_durations_and_shares_are_formatted() -> None:
    assert [duration(s) for s in (0, 3.4e-7, 0.00034, 0.0123, 4.563, 59.99, 725, 12_000)] == [
        "0 s", "340 ns", "340 µs", "12.3 ms", "4.56 s", "60.0 s", "12 min 5 s", "3 h 20 min",
    ]  # fmt: skip
    assert [percent(s).replace("\u00a0", " ") for s in (0, 0.0001, 0.056, 0.5, 0.9999, 1)] == [
        "0 %", "under 0.1 %", "5.6 %", "50 %", "over 99.9 %", "100 %",
    ]  # fmt: skip
    assert [unit_of(s).short for s in (10, 600, 40_000)] == ["s", "min", "h"]
    assert sparkline([0, 1, 8]) == " ▁█"
    assert len(sparkline([1.0] * 240)) == 60
