"""CPU time of threads, and of functions that run in them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["CpuTime", "thread_cpu_clock"]

T = TypeVar("T")

_lock: Final = threading.Lock()  # one for all, so that the sums can be pickled


def thread_cpu_clock() -> Callable[[], int]:
    """Make a clock of the calling thread's CPU time, in nanoseconds, that any thread may read.

    It is of no use once the thread has ended, and stands at 0 on systems without such clocks.
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

    def measure(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function in the current thread and add its times, even if it raises."""
        cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
        try:
            return function(*arguments)
        finally:
            cpu_ns, wall_ns = time.thread_time_ns() - cpu_ns, time.perf_counter_ns() - wall_ns
            with _lock:
                self.cpu_ns += cpu_ns
                self.wall_ns += wall_ns
