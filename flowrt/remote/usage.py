"""Memory of this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["resident_bytes"]

_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Resident memory of this process; its peak where the system does not tell the current value; 0 if unknown."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource  # noqa: PLC0415  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
