"""Tables as text and as Markdown."""

from __future__ import annotations

from bench.tables import Table


def made() -> Table:
    table = Table("costs", ("µs", "of nadoo", "sent"))
    table.add("ours", "1.00", "0.25x", "-")
    table.miss("theirs", "theirs is not installed")
    table.notes.append("a note")
    return table


def test_text_aligns_figures_below_their_heads() -> None:
    assert list(made().text()) == [
        "costs",
        "            µs  of nadoo  sent",
        "  ours    1.00     0.25x     -",
        "  theirs     -  theirs is not installed",
        "a note",
    ]


def test_markdown_has_a_dash_and_the_reason_for_a_missing_row() -> None:
    assert list(made().markdown()) == [
        "| | µs | of nadoo | sent |",
        "|---|---:|---:|---:|",
        "| ours | 1.00 | 0.25x | – |",
        "| theirs | – (theirs is not installed) | – | – |",
        "",
        "a note",
    ]
