"""Bench of the journal: every way stores every item, and is measured at each size."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bench.journal import GROUPS, WAYS, commits, measure_journal
from bench.report import lines
from flowrt.journal import export


def test_each_way_is_measured_at_each_size_and_stores_every_item(tmp_path: Path) -> None:
    samples = commits(tmp_path, WAYS, 3, 2, lambda _: None)
    assert list(samples) == [way.name for way in WAYS]
    assert all(len(times) == 2 and min(times) > 0 for sizes in samples.values() for times in sizes.values())
    for way in WAYS:
        for size in GROUPS:
            path = tmp_path / f"1-{way.name}-{size}"
            if way.name == "log":
                count = len(list(export(path)))
            else:
                connection = sqlite3.connect(path)
                count = connection.execute("SELECT count(*) FROM items").fetchone()[0]
                connection.close()
            assert count == 3 * size


@pytest.mark.parts
def test_batches_are_measured_with_and_without_a_journal() -> None:
    measured = measure_journal(WAYS[:1], 1, 100, lambda _: None)
    assert [work["name"] for work in measured["batches"]] == ["noop", "1ms", "50ms"]
    assert all(len(work["samples"]) == 2 for work in measured["batches"])
    shown = "\n".join(lines(measured))
    assert "append log" in shown
    assert "1 ms at 100" in shown
