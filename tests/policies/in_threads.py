"""Runs a function in several threads that switch as often as possible."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

THREADS = 6


def in_threads(function: Callable[[], None]) -> None:
    """Run a function in several threads at once, and raise what it raises."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            for done in [pool.submit(function) for _ in range(THREADS)]:
                done.result()
    finally:
        sys.setswitchinterval(before)
