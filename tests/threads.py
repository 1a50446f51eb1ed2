"""Threads that a test leaves behind."""

from __future__ import annotations

import threading

__all__ = ["assert_no_thread_left"]

_HANG_S = 60.0


def assert_no_thread_left(before: set[threading.Thread]) -> None:
    """Assert that the threads started since then end.

    On a busy machine a thread may still be on its way out when its work is known to be done, and one of an earlier
    test may end meanwhile: a count of threads says little.

    Args:
        before: The threads that there were, from `threading.enumerate`.
    """
    for thread in set(threading.enumerate()) - before:
        thread.join(_HANG_S)
        assert not thread.is_alive(), f"left behind: {thread}"
