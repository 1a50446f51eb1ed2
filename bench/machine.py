"""Machine, versions and commit of a measurement."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["about", "last_core", "now"]

_PACKAGES = ("uvloop", "nadoo-flow-core", "opentelemetry-sdk", "prometheus-client", "structlog")


def about(*more: str) -> dict[str, object]:
    """Machine, versions, commit, and settings of the garbage collector.

    Args:
        more: Packages whose versions matter beside those of every suite.
    """
    packages = {}
    for name in (*_PACKAGES, *more):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": packages,
        "commit": _commit(),
        "garbage_collector": f"enabled={gc.isenabled()}, thresholds {gc.get_threshold()}",
        "load": [round(load, 1) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "measured_at": now(),
    }


def now() -> str:
    """The time in ISO format, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def last_core() -> int | None:
    """The last core, which is the least busy, to pin to; None if the platform cannot pin."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit, with a + if the measured code differs from it."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return f"{commit}+" if _git("status", "--porcelain", "--", "flowrt", "bench/*.py") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    root = Path(__file__).parents[1]
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()
