"""Inspection of a journal: it locks and writes nothing, so the journal's run may be active."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flowrt.errors import JournalDamagedError
from flowrt.journal.decoding import result_of_record
from flowrt.journal.format import body_of, decode_record
from flowrt.journal.index import Table
from flowrt.journal.recovery import FOREIGN, Scan, damaged
from flowrt.model import BatchResult

__all__ = ["JournalSummary", "export", "lines", "records", "summary"]


@dataclass(frozen=True, slots=True)
class JournalSummary:
    """Content of a journal, in numbers.

    Attributes:
        path: The file.
        created: When the journal was created, an ISO time in UTC; empty if its first line is incomplete.
        flowrt: The version of flowrt that created it.
        fingerprint: What identifies its run.
        items: Number of items, each counted once.
        records: Number of records; higher than `items` if items ran again.
        counts: Items by status.
        last_index: The highest index, -1 for none.
        groups: How often records were synced.
        size_bytes: The file's size.
        torn_bytes: Incomplete bytes at its end: a torn tail, or a group that is being written.
        damaged_at: Offset of the damage, in bytes from the start, or None; records after it are not counted.
        damage: Description of the damage, or None.
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
    """Summarise a journal, as far as it can be read.

    Args:
        path: A journal.

    Raises:
        JournalDamagedError: The file is not a journal, or its first line is damaged.
        JournalMismatchError: The journal has a format that this version does not read.
        OSError: The file cannot be opened.
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
    """Iterate over all records in the order of writing; the last record of an item counts.

    Args:
        path: A journal.
        skip_damaged: True to skip damaged lines.

    Raises:
        JournalDamagedError: The journal is damaged; the records before the damage were yielded.
        JournalMismatchError: The journal has a format that this version does not read.
        OSError: The file cannot be opened.
    """
    with _opened(path) as (file, size):
        for offset, _, _, body in Scan(file, size, str(path), skip_damaged=skip_damaged):
            try:
                result = result_of_record(body)
            except ValueError:
                if skip_damaged:
                    continue
                raise damaged(path, offset, FOREIGN) from None
            yield result


def lines(path: str | os.PathLike[str], *, skip_damaged: bool = False) -> Iterator[bytes]:
    """Iterate over all records as lines of an output file, in the order of writing, superseded records included.

    Args:
        path: A journal.
        skip_damaged: True to skip damaged lines.

    Raises:
        JournalDamagedError: The journal is damaged; the lines before the damage were yielded.
        JournalMismatchError: The journal has a format that this version does not read.
        OSError: The file cannot be opened.
    """
    with _opened(path) as (file, size):
        for _, _, _, body in Scan(file, size, str(path), skip_damaged=skip_damaged):
            yield decode_record(body)[1]


def export(path: str | os.PathLike[str], *, skip_damaged: bool = False) -> Iterator[bytes]:
    """Iterate over the lines of an output file, one per index, in the order of the indices, from each last record.

    The whole journal is read before the first line is yielded; its outputs are not kept in memory.

    Args:
        path: A journal.
        skip_damaged: True to skip damaged lines.

    Raises:
        JournalDamagedError: The journal is damaged; no line was yielded.
        JournalMismatchError: The journal has a format that this version does not read.
        OSError: The file cannot be opened.
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
            body = body_of(file.readline())
            if body is None:
                raise JournalDamagedError(f"journal {path} changed at offset {entry[0]} while it was read", entry[0])
            yield decode_record(body)[1]


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, int]]:
    with Path(path).open("rb", buffering=1 << 16) as file:
        yield file, os.fstat(file.fileno()).st_size
