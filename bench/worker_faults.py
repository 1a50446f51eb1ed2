"""Lost, hung and orphaned worker processes: how long until each is noticed, or has ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.measure import ROOT, BenchError

__all__ = ["measure_faults"]

_PATIENCE_S: Final = 30.0
_LIMIT_S: Final = 0.5
_DRIVER: Final = """
import asyncio
from bench.worker_faults import Compute
from flowrt import BatchProcessor, ProcessesExecutor
from flowrt.executors.workers import worker_states

async def main():
    executor = ProcessesExecutor(2)
    batch = asyncio.ensure_future(BatchProcessor(Compute(), 2, executor=executor, telemetry=False).batch(range(2)))
    while [state.inflight for state in worker_states()] != [1, 1]:
        await asyncio.sleep(0.02)
    print(*[state.pid for state in worker_states()], flush=True)
    await batch

asyncio.run(main())
"""


class Compute:
    """Plain function that computes until its process is ended."""

    def __call__(self, item: int) -> int:
        """Compute."""
        while True:
            item += 1


class Stop:
    """Plain function that stops its process, as a debugger or a full machine may."""

    def __call__(self, item: int) -> int:
        """Stop."""
        os.kill(os.getpid(), signal.SIGSTOP)
        return item


async def _sleep(item: int) -> int:
    await asyncio.sleep(600.0)
    return item


async def measure_faults(figures: dict[str, float]) -> None:
    """Add milliseconds: until a killed worker is noticed, beyond a stopped one's time limit, until orphans have ended.

    Args:
        figures: Takes `lost ms`, `hung ms` and `orphans ms`.

    Raises:
        BenchError: Something did not happen within 30 s.
    """
    figures["lost ms"] = await _lost_ms()
    figures["hung ms"] = await _hung_ms()
    figures["orphans ms"] = await asyncio.to_thread(_orphans_ms)


async def _lost_ms() -> float:
    from flowrt import BatchProcessor, ProcessesExecutor
    from flowrt.executors.workers import worker_states as states

    async with ProcessesExecutor(2) as executor:
        batch = asyncio.ensure_future(BatchProcessor(_sleep, 20, executor=executor, telemetry=False).batch(range(20)))
        await _until(lambda: len(states()) == 2 and all(state.inflight for state in states()), "the workers have items")
        os.kill(states()[0].pid, signal.SIGKILL)
        began = time.perf_counter()
        await _until(lambda: states()[0].last_crash is not None, "the lost worker is noticed", 0.0005)
        lost_ms = (time.perf_counter() - began) * 1e3
        batch.cancel()
        await asyncio.wait([batch])
    return lost_ms


async def _hung_ms() -> float:
    from flowrt import BatchProcessor, ProcessesExecutor

    async with ProcessesExecutor(1) as executor:
        processor = BatchProcessor(Stop(), 1, executor=executor, telemetry=False, item_timeout=_LIMIT_S)
        (result,) = await processor.batch([1])
    if result.status != "timed_out":
        raise BenchError(f"an item in a stopped worker ended as {result.status}, not as timed_out")
    return (result.execution_time - _LIMIT_S) * 1e3


def _orphans_ms() -> float:
    driver = subprocess.Popen([sys.executable, "-c", _DRIVER], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        line = driver.stdout.readline() if driver.stdout is not None else ""
        pids = [int(pid) for pid in line.split()]
    finally:
        driver.kill()
        began = time.perf_counter()
    while any(map(_alive, pids)):
        if time.perf_counter() - began > _PATIENCE_S:
            raise BenchError(f"the workers {pids} outlive their driver")
        time.sleep(0.001)
    driver.communicate()
    if len(pids) != 2:
        raise BenchError(f"the driver printed {line!r}, not the pids of its two workers")
    return (time.perf_counter() - began) * 1e3


def _alive(pid: int) -> bool:
    """True if a process runs; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def _until(true: Callable[[], bool], what: str, pause_s: float = 0.02) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not true():
        if time.monotonic() > until:
            raise BenchError(f"not within {_PATIENCE_S:g} s: {what}")
        await asyncio.sleep(pause_s)
