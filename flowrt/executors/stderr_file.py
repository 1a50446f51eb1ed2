"""Reads the standard error of a worker from a file line by line, as Ray's actors write it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

__all__ = ["own_stderr_file", "read_lines"]

_MOST_BYTES: Final = 65_536  # at once; older output is skipped, as a worker may print faster than a driver reads
_RAYS: Final = (":job_id:", ":actor_name:", ":task_name:")  # lines by which Ray's log monitor knows whose file it is


def own_stderr_file() -> str:
    """Return the path of the file that this process's standard error goes to; empty if it goes elsewhere."""
    try:
        return str(Path("/proc/self/fd/2").readlink()) if stat.S_ISREG(os.fstat(2).st_mode) else ""
    except OSError:
        return ""


def read_lines(path: str, start: int, *, whole: bool = False) -> tuple[list[str], int]:
    """Read the lines that were printed since a position.

    Args:
        path: The file.
        start: The position, in bytes.
        whole: True if the file is complete, so that a last line without a line end counts, too.

    Returns:
        The lines, and the position behind them.
    """
    try:
        with Path(path).open("rb") as file:
            start = max(start, file.seek(0, os.SEEK_END) - _MOST_BYTES)
            file.seek(start)
            data = file.read(_MOST_BYTES)
    except OSError:
        return [], start
    end = len(data) if whole or len(data) == _MOST_BYTES else data.rfind(b"\n") + 1
    lines = data[:end].decode(errors="replace").splitlines()
    return [line.rstrip() for line in lines if not line.startswith(_RAYS)], start + end
