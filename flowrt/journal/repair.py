"""Salvage of a damaged journal: its intact records go into a new one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from flowrt.errors import JournalDamagedError
from flowrt.journal.decoding import result_of_record
from flowrt.journal.file import JournalFile
from flowrt.journal.format import sealed
from flowrt.journal.index import Table
from flowrt.journal.os_calls import Disk
from flowrt.journal.recovery import Scan

__all__ = ["salvage"]

_GROUP_BYTES: Final = 1 << 20


def salvage(path: str | os.PathLike[str], new_path: str | os.PathLike[str], *, disk: Disk | None = None) -> int:
    """Copy all intact records into a new journal, to resume from; the items of damaged records run again.

    Args:
        path: A journal; it is not changed.
        new_path: A file that does not exist.
        disk: The operating system's calls.

    Returns:
        Number of bytes of the old journal that were left out.

    Raises:
        FileExistsError: The new file exists.
        JournalDamagedError: The first line is damaged.
        JournalMismatchError: The journal has a format that this version does not read.
        JournalDiskError: The new journal cannot be written.
        OSError: The old journal cannot be read.
    """
    with Path(path).open("rb", buffering=1 << 20) as source:
        scan = Scan(source, os.fstat(source.fileno()).st_size, str(path), skip_damaged=True)
        if scan.header is None:
            raise JournalDamagedError(f"journal {path} is empty: start a new one", 0)
        if os.path.lexists(new_path):
            raise FileExistsError(f"{new_path} exists: name a new file for the intact records of {path}")
        target = JournalFile(Path(new_path), Disk() if disk is None else disk)
        try:
            target.read(Table())
            target.ready(scan.header)
            group: list[bytes] = []
            size_bytes = 0
            for _, _, _, body in scan:
                try:
                    result_of_record(body)
                except ValueError:
                    scan.damaged_bytes += len(sealed(body))
                    continue
                group.append(sealed(body))
                size_bytes += len(body)
                if size_bytes > _GROUP_BYTES:
                    target.extend(group)
                    group, size_bytes = [], 0
            target.extend(group)
        finally:
            target.close()
    return scan.damaged_bytes + scan.torn_bytes
