"""What it costs to make an item durable, on the disk that has the folder for temporary files.

Two tables: flowrt's append log beside SQLite, by the size of the group that is committed, where each way writes the
same lines and syncs once per group in the thread that measures; and whole batches without a journal and with one.
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
_COMMITS: Final = 200  # a round, of each way and size
_BATCHES: Final = ("noop", "1ms", "50ms")
_FEWER: Final = 5  # by how much those have fewer items than in other suites

Say = Callable[[str], None]
Commit = Callable[[Sequence[BatchResult]], None]
Opened = tuple[Commit, Callable[[], None]]


class Way(NamedTuple):
    """One way of keeping items.

    Attributes:
        name: For the JSON.
        title: For tables.
        open: Opens a file, and gives what commits a group and what closes it.
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
    """Measure both.

    Args:
        ways: In the order in which they take turns.
        rounds: How often each has its turn.
        cut: By how much the number of commits and of items is divided.
        say: Told of the progress.

    Returns:
        What is written as JSON: microseconds an item of each round by way and size of the group, and the batches as
        `measure` gives its workloads.

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
    """Microseconds an item, for each way and each size of a group, one for each round.

    Args:
        folder: On the disk that is measured.
        ways: In the order in which they take turns.
        count: How many groups a round commits.
        rounds: How often each way has its turn.
        say: Told of the progress.
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
        measured: What `measure_journal` gave.
    """
    heads = [f"{size} item{'s' * (size > 1)} a sync" for size in GROUPS]
    kept = Table("an item made durable, in µs by the number of items that are written and synced at once", heads)
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
