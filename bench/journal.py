"""Cost of a durable item, on the disk of the temporary folder.

Two tables: flowrt's append log beside SQLite by the size of a commit, where each way writes the same lines and syncs
once per commit in the measuring thread; and whole batches without and with a journal.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from bench.arms import arm
from bench.machine import about
from bench.measure import measure, per_item_us
from bench.tables import Table
from bench.workloads import workload
from flowrt.journal import index
from flowrt.journal.file import JournalFile
from flowrt.journal.format import Header, encode_record
from flowrt.journal.os_calls import Disk
from flowrt.model import BatchResult
from flowrt.model.json_lines import encode_result

__all__ = ["GROUPS", "WAYS", "Way", "commits", "journal_tables", "measure_journal"]

GROUPS: Final = (1, 10, 100)
_COMMITS: Final = 200  # of each way and size, in a round
_BATCHES: Final = ("noop", "1ms", "50ms")
_FEWER: Final = 5  # divisor of the items of other suites

Say = Callable[[str], None]
Commit = Callable[[Sequence[BatchResult]], None]
Opened = tuple[Commit, Callable[[], None]]


class Way(NamedTuple):
    """One way of storing items.

    Attributes:
        name: Name in the JSON.
        title: Title in tables.
        open: Opens a file; returns a function that commits a group and one that closes the file.
    """

    name: str
    title: str
    open: Callable[[Path], Opened]


def _append_log(path: Path) -> Opened:
    file = JournalFile(path, Disk())
    file.read(index.Table())
    file.ready(Header({}, "", ""))
    return lambda group: file.extend([encode_record(result) for result in group]), file.close


def _sqlite(journal_mode: str, synchronous: str) -> Callable[[Path], Opened]:
    def opened(path: Path) -> Opened:
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


WAYS: Final = (
    Way("log", "append log", _append_log),
    Way("sqlite-wal", "SQLite, WAL, synchronous=FULL", _sqlite("WAL", "FULL")),
    Way("sqlite-rollback", "SQLite, rollback journal, synchronous=FULL", _sqlite("DELETE", "FULL")),
    Way("sqlite-normal", "SQLite, WAL, synchronous=NORMAL (not durable)", _sqlite("WAL", "NORMAL")),
)


def measure_journal(ways: Sequence[Way], rounds: int, cut: int, say: Say) -> dict[str, Any]:
    """Measure both tables.

    Args:
        ways: Ways in the order of their turns.
        rounds: Turns of each way.
        cut: Divisor of the number of commits and items.
        say: Reports the progress.

    Returns:
        The JSON: microseconds an item of each round by way and size of the group, and the batches in the form of
        `measure`.

    Raises:
        BenchError: A batch failed.
    """
    with tempfile.TemporaryDirectory(prefix="flowrt-bench-") as folder:
        us = commits(Path(folder), ways, max(1, _COMMITS // cut), rounds, say)
    arms = [arm("flowrt-bare"), arm("flowrt-journal")]
    works = [workload(name).cut(cut * _FEWER) for name in _BATCHES]
    batches = measure(arms, works, rounds, say)["workloads"]
    return {"machine": about(), "rounds": rounds, "missing": {}, "journal_us": us, "batches": batches}


def commits(folder: Path, ways: Sequence[Way], count: int, rounds: int, say: Say) -> dict[str, dict[str, list[float]]]:
    """Microseconds an item, by way, size of a group and round.

    Args:
        folder: Folder on the disk to measure.
        ways: Ways in the order of their turns.
        count: Commits in a round.
        rounds: Turns of each way.
        say: Reports the progress.
    """
    samples: dict[str, dict[str, list[float]]] = {way.name: {str(size): [] for size in GROUPS} for way in ways}
    for turn in range(rounds):
        say(f"commits: round {turn + 1} of {rounds}")
        for way in ways:
            for size in GROUPS:
                groups = _groups(count, size)
                commit, close = way.open(folder / f"{turn}-{way.name}-{size}")
                began = time.perf_counter()
                for group in groups:
                    commit(group)
                samples[way.name][str(size)].append((time.perf_counter() - began) / (count * size) * 1e6)
                close()
    return samples


def _groups(count: int, size: int) -> list[list[BatchResult]]:
    results = [
        BatchResult(index, None, success=True, output={"v": index, "text": "some words " * 8}, attempts=1)
        for index in range(count * size)
    ]
    return [results[at : at + size] for at in range(0, len(results), size)]


def journal_tables(measured: Mapping[str, Any]) -> Iterator[Table]:
    """Both tables.

    Args:
        measured: JSON of `measure_journal`.
    """
    heads = [f"{size} item{'s' * (size > 1)} a sync" for size in GROUPS]
    kept = Table("a durable item, in µs, by the items written and synced at once", heads)
    for way in WAYS:
        if us := measured["journal_us"].get(way.name):
            kept.add(way.title, *(_cell(us[str(size)]) for size in GROUPS))
    yield kept
    whole = Table("a whole batch, overhead in µs an item", ("without a journal", "with one", "items", "at once"))
    for work in measured["batches"]:
        both = ([per_item_us(work, sample) for sample in its] for its in work["samples"].values())
        whole.add(work["title"], *map(_cell, both), f"{work['items']:,}", f"{work['concurrency']:,}")
    yield whole


def _cell(us: Sequence[float]) -> str:
    return f"{median(us):,.1f} ({min(us):,.1f} to {max(us):,.1f})"
