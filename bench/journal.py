"""What it costs to make an item durable.

Run it with `python -m bench.journal [FOLDER]`; the folder, by default the one for temporary files, is on the disk that
is measured. Two tables: flowrt's append log beside SQLite, by the size of the group that is committed, where each way
writes the same lines and syncs once per group in the thread that measures; and whole batches with a journal and
without one, each run in a process of its own as `python -m bench run` has them.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from bench.arms import arm
from bench.measure import measure, per_item_us
from bench.workloads import workload
from flowrt.encode import encode_result
from flowrt.journal.disk import Disk
from flowrt.journal.file import JournalFile
from flowrt.journal.format import Header, encode_record
from flowrt.journal.table import Table
from flowrt.records import BatchResult

__all__ = ["GROUPS", "WAYS", "batch_rows", "commits", "main"]

GROUPS: Final = (1, 10, 100)
_COMMITS: Final = 200  # a round, of each way and size
_ROUNDS: Final = 5

Commit = Callable[[Sequence[BatchResult]], None]


def _append_log(path: Path) -> tuple[Commit, Callable[[], None]]:
    file = JournalFile(path, Disk())
    file.read(Table())
    file.ready(Header({}, "", ""))
    return lambda group: file.extend([encode_record(result) for result in group]), file.close


def _sqlite(journal_mode: str, synchronous: str) -> Callable[[Path], tuple[Commit, Callable[[], None]]]:
    def opened(path: Path) -> tuple[Commit, Callable[[], None]]:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("CREATE TABLE items (position INTEGER PRIMARY KEY, status TEXT, line BLOB)")

        def commit(group: Sequence[BatchResult]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT OR REPLACE INTO items VALUES (?, ?, ?)",
                [(result.index, result.status, encode_result(result)) for result in group],
            )
            connection.execute("COMMIT")

        return commit, connection.close

    return opened


WAYS: Final = {
    "append log": _append_log,
    "SQLite, WAL, synchronous=FULL": _sqlite("WAL", "FULL"),
    "SQLite, rollback journal, synchronous=FULL": _sqlite("DELETE", "FULL"),
    "SQLite, WAL, synchronous=NORMAL (not durable)": _sqlite("WAL", "NORMAL"),
}


def commits(folder: Path, count: int = _COMMITS, rounds: int = _ROUNDS) -> dict[str, dict[int, list[float]]]:
    """Microseconds an item, for each way and each size of a group, one for each round.

    Args:
        folder: On the disk that is measured.
        count: How many groups a round commits.
        rounds: How often each way has its turn.
    """
    samples: dict[str, dict[int, list[float]]] = {way: {size: [] for size in GROUPS} for way in WAYS}
    for turn in range(rounds):
        for number, (way, opened) in enumerate(WAYS.items()):
            for size in GROUPS:
                groups = _groups(count, size)
                commit, close = opened(folder / f"{turn}-{number}-{size}")
                began = time.perf_counter()
                for group in groups:
                    commit(group)
                samples[way][size].append((time.perf_counter() - began) / (count * size) * 1e6)
                close()
    return samples


def _groups(count: int, size: int) -> list[list[BatchResult]]:
    results = [
        BatchResult(index, None, success=True, output={"v": index, "text": "some words " * 8}, attempts=1)
        for index in range(count * size)
    ]
    return [results[at : at + size] for at in range(0, len(results), size)]


def batch_rows(cut: int = 1, rounds: int = _ROUNDS) -> list[list[str]]:
    """Overhead an item of whole batches, without a journal and with one.

    Args:
        cut: By how much the number of items is divided.
        rounds: How often each has its turn.
    """
    arms = [arm("flowrt-bare"), arm("flowrt-journal")]
    works = [workload(name).cut(cut * 5) for name in ("noop", "1ms", "50ms")]
    measured = measure(arms, works, rounds, lambda _: None)
    return [[work["title"], *(_cell(_overheads(work, each.name)) for each in arms)] for work in measured["workloads"]]


def _overheads(work: dict[str, Any], name: str) -> list[float]:
    return [per_item_us(work, sample) for sample in work["samples"][name]]


def _cell(times: Sequence[float]) -> str:
    return f"{statistics.median(times):,.1f} ({min(times):,.1f} to {max(times):,.1f})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    for row in (heads, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print two tables."""
    given = sys.argv[1:] if arguments is None else arguments
    with tempfile.TemporaryDirectory(prefix="flowrt-bench-", dir=given[0] if given else None) as folder:
        samples = commits(Path(folder))
        where = os.path.realpath(Path(folder).parent)
        os.environ["TMPDIR"] = folder  # for the journals of the batches
        print(f"µs an item, medians of {_ROUNDS} rounds (lowest to highest), on the disk of {where}\n")
        heads = ["way", *(f"{size} item{'s' * (size > 1)} a sync" for size in GROUPS)]
        _table(heads, [[way, *(_cell(times) for times in sizes.values())] for way, sizes in samples.items()])
        print()
        _table(["a whole batch", "without a journal", "with one"], batch_rows())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
