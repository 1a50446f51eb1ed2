"""The bench of the journal: every way keeps what it was given, and each is measured at each size."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bench.journal import GROUPS, WAYS, batch_rows, commits
from flowrt.journal import export


def test_each_way_is_measured_at_each_size_and_keeps_every_item(tmp_path: Path) -> None:
    samples = commits(tmp_path, count=3, rounds=2)
    assert set(samples) == set(WAYS)
    assert all(len(times) == 2 and min(times) > 0 for sizes in samples.values() for times in sizes.values())
    for number, way in enumerate(WAYS):
        for size in GROUPS:
            path = tmp_path / f"1-{number}-{size}"
            if way == "append log":
                count = len(list(export(path)))
            else:
                connection = sqlite3.connect(path)
                count = connection.execute("SELECT count(*) FROM items").fetchone()[0]
                connection.close()
            assert count == 3 * size


def test_whole_batches_are_measured_with_a_journal_and_without_one() -> None:
    rows = batch_rows(cut=100, rounds=1)
    assert [row[0] for row in rows] == ["no-op", "1 ms at 100", "50 ms at 100"]
    assert all(len(row) == 3 and float(row[2].split()[0].replace(",", "")) > 0 for row in rows)
