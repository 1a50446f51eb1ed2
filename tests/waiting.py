"""Waiting for a state that another thread or process brings about."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["wait_until"]

_HANG_S = 60.0


def wait_until(true: Callable[[], object], what: str) -> None:
    """Wait until a condition is true, up to a guard against hanging.

    Args:
        true: The condition.
        what: What it means, for the message if it never is.
    """
    deadline = time.monotonic() + _HANG_S
    while not true():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)
