"""Looking into a journal without taking part in it: nothing is locked or written, and its run may be under way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flowrt.errors import JournalDamagedError
from flowrt.journal.format import body_of, decode_record
from flowrt.journal.index import Table
from flowrt.journal.journal import result_of_line
from flowrt.journal.recovery import Scan
from flowrt.model import BatchResult

__all__ = ["JournalSummary", "export", "lines", "records", "summary"]


@dataclass(frozen=True, slots=True)
class JournalSummary:
    """What a journal holds.

    Attributes:
        path: The file.
        created: When it was begun, an ISO time in UTC; empty where not even its first line was written whole.
        flowrt: The version of flowrt that began it.
        fingerprint: What it says about its run.
        items: Items in it, each counted once.
        records: Records in it; more than items where items ran again.
        counts: Items by status.
        last_index: The highest index, -1 for none.
        groups: How often records were synced.
        size_bytes: The file's size.
        torn_bytes: Bytes at its end that are not whole: a torn tail, or a group that is just being written.
        damaged_at: Where it is damaged, in bytes from the start, or None; what stands behind is not counted.
        damage: What is to be said about that.
    """

    path: str
    created: str
    flowrt: str
    fingerprint: dict[str, Any]
    items: int
    records: int
    counts: dict[str, int]
    last_index: int
    groups: int
    size_bytes: int
    torn_bytes: int
    damaged_at: int | None
    damage: str | None


def summary(path: str | os.PathLike[str]) -> JournalSummary:
    """Say what a journal holds, as far as it can be read.

    Args:
        path: A journal.

    Raises:
        JournalDamagedError: The file is no journal, or its first line is damaged.
        JournalMismatchError: It has a format that this version does not read.
        OSError: It cannot be opened.
    """
    table, seen = Table(), 0
    damage: JournalDamagedError | None = None
    with _opened(path) as (file, size):
        scan = Scan(file, size, str(path))
        try:
            for offset, index, code, _ in scan:
                table.put(index, offset, code)
                seen += 1
        except JournalDamagedError as exc:
            damage = exc
    header = scan.header
    return JournalSummary(
        path=str(path),
        created=header.created if header else "",
        flowrt=header.flowrt if header else "",
        fingerprint=header.fingerprint if header else {},
        items=len(table),
        records=seen,
        counts=table.counts(),
        last_index=table.last,
        groups=scan.groups,
        size_bytes=size,
        torn_bytes=scan.torn_bytes,
        damaged_at=damage.offset if damage else None,
        damage=str(damage) if damage else None,
    )


def records(path: str | os.PathLike[str], *, skip_damaged: bool = False) -> Iterator[BatchResult]:
    """Every record in the order of writing; an item that ran again has several, of which the last counts.

    Args:
        path: A journal.
        skip_damaged: Go on behind damage.

    Raises:
        JournalDamagedError: It is damaged; what stood before has been given by then.
        JournalMismatchError: It has a format that this version does not read.
        OSError: It cannot be opened.
    """
    for line in lines(path, skip_damaged=skip_damaged):
        yield result_of_line(line)


def lines(path: str | os.PathLike[str], *, skip_damaged: bool = False) -> Iterator[bytes]:
    """The line of an output file of every record, in the order of writing, those that no longer count too.

    Args:
        path: A journal.
        skip_damaged: Go on behind damage.

    Raises:
        JournalDamagedError: It is damaged; what stood before has been given by then.
        JournalMismatchError: It has a format that this version does not read.
        OSError: It cannot be opened.
    """
    with _opened(path) as (file, size):
        for _, _, _, body in Scan(file, size, str(path), skip_damaged=skip_damaged):
            yield decode_record(body)[1]


def export(path: str | os.PathLike[str], *, skip_damaged: bool = False) -> Iterator[bytes]:
    """The lines of an output file, in the order of the indices, each index once, as its last record says.

    The journal is read once before the first line is given; its outputs are not held.

    Args:
        path: A journal.
        skip_damaged: Go on behind damage.

    Raises:
        JournalDamagedError: It is damaged; nothing has been given by then.
        JournalMismatchError: It has a format that this version does not read.
        OSError: It cannot be opened.
    """
    table = Table()
    with _opened(path) as (file, size):
        for offset, index, code, _ in Scan(file, size, str(path), skip_damaged=skip_damaged):
            table.put(index, offset, code)
        for index in table:
            entry = table.get(index)
            if entry is None:
                continue
            file.seek(entry[0])
            again = body_of(file.readline())
            if again is None:
                raise JournalDamagedError(f"journal {path} changed at offset {entry[0]} while it was read", entry[0])
            yield decode_record(again)[1]


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, int]]:
    with Path(path).open("rb", buffering=1 << 16) as file:
        yield file, os.fstat(file.fileno()).st_size
