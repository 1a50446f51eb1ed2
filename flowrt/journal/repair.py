"""Making a new journal of what is still whole in a damaged one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from flowrt.errors import JournalDamagedError
from flowrt.journal.file import JournalFile
from flowrt.journal.format import sealed
from flowrt.journal.index import Table
from flowrt.journal.os_calls import Disk
from flowrt.journal.recovery import Scan

__all__ = ["salvage"]

_GROUP_BYTES: Final = 1 << 20


def salvage(path: str | os.PathLike[str], new_path: str | os.PathLike[str], *, disk: Disk | None = None) -> int:
    """Copy every whole record into a new journal, to resume from: the items of the damaged ones run again.

    Args:
        path: A journal; left as it is.
        new_path: A file that does not exist.
        disk: The system's calls.

    Returns:
        How many bytes of the old journal were left out.

    Raises:
        FileExistsError: The new file exists.
        JournalDamagedError: Not even the first line is whole.
        JournalMismatchError: It has a format that this version does not read.
        JournalDiskError: The new journal cannot be written.
        OSError: The old one cannot be read.
    """
    with Path(path).open("rb", buffering=1 << 20) as source:
        scan = Scan(source, os.fstat(source.fileno()).st_size, str(path), skip_damaged=True)
        if scan.header is None:
            raise JournalDamagedError(f"journal {path} holds nothing: begin a new one", 0)
        if os.path.lexists(new_path):
            raise FileExistsError(f"{new_path} exists: name a new file for what can be saved of {path}")
        target = JournalFile(Path(new_path), Disk() if disk is None else disk)
        try:
            target.read(Table())
            target.ready(scan.header)
            group: list[bytes] = []
            held = 0
            for _, _, _, body in scan:
                group.append(sealed(body))
                held += len(body)
                if held > _GROUP_BYTES:
                    target.extend(group)
                    group, held = [], 0
            target.extend(group)
        finally:
            target.close()
    return scan.damaged_bytes + scan.torn_bytes
