"""State of the process for the live page: CPU, memory, loop lag, dropped telemetry."""

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
_MIN_INTERVAL_S: Final = 0.25  # over shorter intervals a CPU share is mostly noise


class ProcessView:
    """Samples CPU time and loop lag between calls of `sample`."""

    def __init__(self) -> None:
        self._at_s, self._worked_s = time.monotonic(), time.process_time()
        self._lag_counts = METRICS.lag.counts.copy()
        self._cpu: float | None = None
        self._lag_s: float | None = None

    def sample(self) -> None:
        """Measure from the last sample to now."""
        now, worked = time.monotonic(), time.process_time()
        if now - self._at_s < _MIN_INTERVAL_S:
            return
        self._cpu = (worked - self._worked_s) / (now - self._at_s)
        self._at_s, self._worked_s = now, worked
        counts = METRICS.lag.counts.copy()
        spread = [after - before for before, after in zip(self._lag_counts, counts, strict=True)]
        self._lag_s, self._lag_counts = percentile(spread, LAG_BOUNDS_S, 1.0), counts

    def state(self) -> dict[str, Any]:
        """Return the state for the page. CPU is a share of one core; times are in seconds."""
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
    """Return the resident set size, or None where /proc is missing."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
