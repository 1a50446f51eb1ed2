"""CPU time of threads, and of functions that run in them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["CpuTime", "read_times", "thread_cpu_clock", "thread_waits"]

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # neither on Windows nor on macOS

    def thread_waits() -> int:
        """Return -1: the number of voluntary context switches is not known here."""
        return -1
else:

    def thread_waits() -> int:
        """Return the number of voluntary context switches of this thread."""
        return getrusage(RUSAGE_THREAD).ru_nvcsw


_lock: Final = threading.Lock()  # one for all, so that the sums can be pickled


def thread_cpu_clock() -> Callable[[], int]:
    """Make a clock of the calling thread's CPU time, in nanoseconds, that any thread may read.

    The clock is invalid after the thread has ended, and always 0 on systems without such clocks.
    """
    if not hasattr(time, "pthread_getcpuclockid"):
        return int
    clock = time.pthread_getcpuclockid(threading.get_ident())

    def read() -> int:
        try:
            return time.clock_gettime_ns(clock)
        except OSError:
            return 0

    return read


class CpuTime:
    """Sums of the CPU time and the wall time of the calls that have ended.

    The two differ by the time that a call waited: for input and output, for the interpreter's lock, for a processor.

    Attributes:
        cpu_ns: CPU time, in nanoseconds.
        wall_ns: Wall time, in nanoseconds.
    """

    __slots__ = ("cpu_ns", "wall_ns")

    def __init__(self) -> None:
        self.cpu_ns = 0
        self.wall_ns = 0

    def add_since(self, start: tuple[int, int]) -> tuple[int, int]:
        """Add the times that have passed on this thread since `start`, from `read_times`; return the current times."""
        cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
        with _lock:
            self.cpu_ns += cpu_ns - start[0]
            self.wall_ns += wall_ns - start[1]
        return cpu_ns, wall_ns


def read_times() -> tuple[int, int]:
    """Return the calling thread's CPU time and a monotonic time, in nanoseconds."""
    return time.thread_time_ns(), time.perf_counter_ns()
