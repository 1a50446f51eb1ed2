"""Threads that a test leaves behind."""

from __future__ import annotations

import threading

__all__ = ["assert_no_thread_left"]

_HANG_S = 60.0


def assert_no_thread_left(before: set[threading.Thread]) -> None:
    """Assert that the threads started since then end.

    A count of threads would not do: on a busy machine a thread may end a while after its work, and an earlier test's
    threads may end meanwhile.

    Args:
        before: The earlier threads, from `threading.enumerate`.
    """
    for thread in set(threading.enumerate()) - before:
        thread.join(_HANG_S)
        assert not thread.is_alive(), f"left behind: {thread}"
