"""Processor cores that this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["usable_cores"]

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")  # of a container: quota and period in microseconds


def usable_cores(quota: Path = _QUOTA) -> int:
    """Count the cores that the process may run on, at least 1: its affinity, cut to its container's CPU limit.

    Args:
        quota: The control group's file, as cgroup v2 writes it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no control group, or no limit, which reads "max"
        limit_us, period_us = quota.read_text().split()
        cores = min(cores, math.ceil(int(limit_us) / int(period_us)))
    return max(1, cores)
