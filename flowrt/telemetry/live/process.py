"""The process as the live page shows it: its load, its memory, how late its loop is."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any, Final

from flowrt._version import __version__
from flowrt.telemetry.live.history import percentile
from flowrt.telemetry.metrics.catalogue import LAG_BOUNDS_S
from flowrt.telemetry.metrics.store import METRICS

__all__ = ["ProcessView"]

_STATM: Final = Path("/proc/self/statm")
_LEAST_S: Final = 0.25  # over less, a share of the processor is mostly noise


class ProcessView:
    """Reads what the process uses, between one look and the next."""

    def __init__(self) -> None:
        self._at_s, self._worked_s = time.monotonic(), time.process_time()
        self._lag_counts = METRICS.lag.counts.copy()
        self._cpu: float | None = None
        self._lag_s: float | None = None

    def look(self) -> None:
        """Measure from the last look to now."""
        now, worked = time.monotonic(), time.process_time()
        if now - self._at_s < _LEAST_S:
            return
        self._cpu = (worked - self._worked_s) / (now - self._at_s)
        self._at_s, self._worked_s = now, worked
        counts = METRICS.lag.counts.copy()
        spread = [after - before for before, after in zip(self._lag_counts, counts, strict=True)]
        self._lag_s, self._lag_counts = percentile(spread, LAG_BOUNDS_S, 1.0), counts

    def state(self) -> dict[str, Any]:
        """What is shown; shares are of one processor, times in seconds."""
        return {
            "now_s": round(time.time(), 3),
            "pid": os.getpid(),
            "version": __version__,
            "python": platform.python_version(),
            "loop": METRICS.loop_name,
            "cpu": None if self._cpu is None else round(self._cpu, 3),
            "rss_bytes": _rss_bytes(),
            "lag_s": self._lag_s,
            "stalls": sum(METRICS.stalls.copy().values()),
            "dropped": sum(METRICS.drops.copy().values()),
        }


def _rss_bytes() -> int | None:
    """The memory that the process holds, where the system tells."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
