"""CPU time of functions in threads."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable

from flowrt._util.cpu_time import CpuTime, read_times, thread_cpu_clock


def compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def measure(total: CpuTime, function: Callable[[float], object], seconds: float) -> None:
    start = read_times()
    function(seconds)
    assert total.add_since(start) > start


def test_cpu_time_of_several_threads_is_summed() -> None:
    total = CpuTime()
    threads = [threading.Thread(target=measure, args=(total, compute, 0.05)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.2e9 <= total.cpu_ns <= total.wall_ns


def test_waiting_is_wall_time_alone() -> None:
    total = CpuTime()
    measure(total, time.sleep, 0.2)
    assert total.wall_ns >= 0.2e9
    assert total.cpu_ns < 0.1e9


def test_sums_can_be_pickled() -> None:
    total = CpuTime()
    measure(total, compute, 0.001)
    assert pickle.loads(pickle.dumps(total)).cpu_ns == total.cpu_ns


def test_clock_of_a_thread_is_read_by_another_one() -> None:
    clocks: list[Callable[[], int]] = []
    computed, read = threading.Event(), threading.Event()

    def work() -> None:
        clocks.append(thread_cpu_clock())
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        computed.set()
        read.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    assert computed.wait(30)
    assert clocks[0]() >= 50_000_000
    read.set()
    thread.join(30)
    clocks[0]()  # still no error
