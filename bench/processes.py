"""Worker processes: the driver's cost of an item, round trips, waits over two workers, and work on two cores.

Everything of one round runs in turn in one process and its two workers, on all cores.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from bench.machine import about
from bench.measure import run_module
from bench.tables import Table, spread
from bench.worker_faults import measure_faults

__all__ = ["PROCESSES", "ProcessArm", "main", "measure_processes", "of_rounds", "process_tables"]

_NOOPS: Final = 20_000
_NAPS: Final = 10_000
_NAP_S: Final = 0.05
_AT_ONCE: Final = 500
_WORKERS: Final = 2
_FAULTS: Final = {
    "lost ms": "until a killed worker is noticed, ms",
    "hung ms": "until a stopped worker is ended, beyond its item's time limit, ms",
    "orphans ms": "until workers that compute have ended after their driver's SIGKILL, ms",
}
_WORK: Final = {"1 ms": (1_000, 2_000), "100 µs": (100, 20_000)}  # µs of CPU, and items


@dataclass(frozen=True, slots=True)
class ProcessArm:
    """One way to run functions in processes.

    Args:
        name: Its name.
        title: Its description.
        needs: Package that it needs.
    """

    name: str
    title: str
    needs: str | None = None

    @property
    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        absent = self.needs is not None and importlib.util.find_spec(self.needs) is None
        return f"{self.needs} is not installed" if absent else None


PROCESSES: Final = (
    ProcessArm("flowrt", "flowrt, `executor=ProcessesExecutor(2)`"),
    ProcessArm("pool", "`ProcessPoolExecutor(2).map`, chunks of 20 ms"),
    ProcessArm("joblib", "`joblib.Parallel(2)`, its own batches", needs="joblib"),
    ProcessArm("imap", "`multiprocessing.Pool(2).imap`, chunks of 20 ms"),
)


async def _noop(item: int) -> int:
    return item


async def _nap(item: int) -> int:
    await asyncio.sleep(_NAP_S)
    return item


class Spin:
    """Plain function that computes for a time by the thread's CPU clock.

    Args:
        for_us: The time, in microseconds.
    """

    def __init__(self, for_us: int) -> None:
        self._for_ns = for_us * 1_000

    def __call__(self, item: int) -> int:
        """Compute."""
        end = time.thread_time_ns() + self._for_ns
        while time.thread_time_ns() < end:
            pass
        return item


def measure_processes(
    arms: Sequence[ProcessArm],
    rounds: int,
    cut: int,
    say: Callable[[str], None],
    run: Callable[[Sequence[str], int], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Measure every figure, once in each round's own process.

    Args:
        arms: The ways to run functions in processes.
        rounds: Number of rounds.
        cut: Divisor of the number of items.
        say: Reports the progress.
        run: Runs one round of some arms; in a process of its own by default.

    Returns:
        The JSON: the figures of each round.

    Raises:
        BenchError: A round failed, or an output was wrong.
    """
    run = run or _in_a_process
    missing = {arm.name: arm.missing for arm in arms if arm.missing}
    names = [arm.name for arm in arms if arm.name not in missing]
    runs = []
    for number in range(rounds):
        say(f"processes: round {number + 1} of {rounds}")
        runs.append(run(names, cut))
    return {"machine": about(), "rounds": rounds, "missing": missing, "processes": {"runs": runs}}


def _in_a_process(names: Sequence[str], cut: int) -> dict[str, float]:
    made: dict[str, float] = run_module("bench.processes", [",".join(names), str(cut)], "worker processes")
    return made


def main(names: Sequence[str], cut: int) -> dict[str, float]:
    """Run one round in this process.

    Args:
        names: The arms.
        cut: Divisor of the number of items.

    Raises:
        ValueError: An output was wrong.
    """
    figures: dict[str, float] = {}
    if "flowrt" in names:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_ours(figures, cut))
    for label, (for_us, count) in _WORK.items():
        items, spin = range(max(200, count // cut)), Spin(for_us)
        chunk = max(1, 20_000 // for_us)
        for name in names:
            if name != "flowrt":
                figures[f"{name} {label}"] = _peer_us(name, spin, items, chunk)
    return figures


async def _ours(figures: dict[str, float], cut: int) -> None:
    from flowrt import BatchProcessor, ProcessesExecutor

    async def timed(node: Any, items: range, at_once: int, executor: Any) -> tuple[float, float]:
        """CPU of this process and wall time of an item, in microseconds."""
        processor = BatchProcessor(node, at_once, executor=executor, telemetry=False)
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        results = await processor.batch(items)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        _check("flowrt", [result.output for result in results], items)
        return cpu_s / len(items) * 1e6, wall_s / len(items) * 1e6

    async with ProcessesExecutor(_WORKERS) as executor, ProcessesExecutor(1) as single:
        for warm in (executor, single):
            await timed(_noop, range(1_000), 100, warm)
        noops = range(_NOOPS // cut)
        for at_once in (100, 1_000):
            loop_us, driver_us = [], []
            for _ in range(3):  # in turn; the cheapest counts: the others were disturbed
                loop_us.append((await timed(_noop, noops, at_once, None))[0])
                driver_us.append((await timed(_noop, noops, at_once, executor))[0])
            figures[f"loop cpu c={at_once}"] = min(loop_us)
            figures[f"driver cpu c={at_once}"] = min(driver_us)
        figures["round trip"] = (await timed(_noop, range(500), 1, single))[1]
        naps = range(_NAPS // cut)
        ideal_us = -(-len(naps) // _AT_ONCE) * _NAP_S / len(naps) * 1e6
        figures["naps"] = (await timed(_nap, naps, _AT_ONCE, executor))[1] / ideal_us
        for label, (for_us, count) in _WORK.items():
            items = range(max(200, count // cut))
            for workers, pool in ((1, single), (2, executor)):
                await timed(Spin(for_us), items[:100], _AT_ONCE, pool)
                figures[f"flowrt {label} x{workers}"] = (await timed(Spin(for_us), items, _AT_ONCE, pool))[1]
            figures[f"flowrt {label}"] = figures[f"flowrt {label} x2"]
    await measure_faults(figures)


def _peer_us(name: str, spin: Spin, items: range, chunk: int) -> float:
    """Wall time of an item in two warm processes of a peer, in microseconds."""
    context = multiprocessing.get_context("spawn")
    outputs: list[int]
    if name == "pool":
        with ProcessPoolExecutor(_WORKERS, mp_context=context) as pool:
            list(pool.map(spin, items[:100]))
            start_s = time.perf_counter()
            outputs = list(pool.map(spin, items, chunksize=chunk))
            wall_s = time.perf_counter() - start_s
    elif name == "imap":
        with context.Pool(_WORKERS) as processes:
            list(processes.imap(spin, items[:100]))
            start_s = time.perf_counter()
            outputs = list(processes.imap(spin, items, chunksize=chunk))
            wall_s = time.perf_counter() - start_s
    else:
        joblib = importlib.import_module("joblib")
        with joblib.Parallel(_WORKERS) as parallel:
            parallel(joblib.delayed(spin)(item) for item in items[:100])
            start_s = time.perf_counter()
            outputs = parallel(joblib.delayed(spin)(item) for item in items)
            wall_s = time.perf_counter() - start_s
    _check(name, outputs, items)
    return wall_s / len(items) * 1e6


def _check(name: str, outputs: Sequence[Any], items: range) -> None:
    if list(outputs) != list(items):
        raise ValueError(f"{name} gave wrong outputs")


def of_rounds(measured: Mapping[str, Any], name: str, by: str | None = None) -> list[float]:
    """A figure of each round, divided by another one of the same round if that is named."""
    runs = [run for run in measured["processes"]["runs"] if name in run and (by is None or by in run)]
    return [run[name] / (1.0 if by is None else run[by]) for run in runs]


def process_tables(measured: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of worker processes."""
    table = Table("The driver's part, two worker processes", ("median", "low", "high"))
    for at_once in (100, 1_000):
        ours, loop = (
            of_rounds(measured, f"driver cpu c={at_once}"),
            of_rounds(measured, f"loop cpu c={at_once}"),
        )
        table.add(f"no-op, {at_once:,} at once: CPU of the driver, µs an item", *spread(ours, ".1f"))
        table.add("  the same on the loop, without workers", *spread(loop, ".1f"))
    table.add("round trip, one at a time, µs", *spread(of_rounds(measured, "round trip"), ",.0f"))
    naps = spread(of_rounds(measured, "naps"), ".2f", "x")
    table.add(f"{_NAPS:,} items of {_NAP_S * 1e3:g} ms, 2 x {_AT_ONCE // 2} at once, of the ideal", *naps)
    for name, what in _FAULTS.items():
        if samples := of_rounds(measured, name):
            table.add(what, *spread(samples, ",.0f"))
    yield table
    work = Table("Items that compute, on two processes: wall time, µs an item", ("1 ms", "100 µs"))
    for arm in PROCESSES:
        if arm.name in measured["missing"]:
            work.miss(arm.title, measured["missing"][arm.name])
            continue
        cells = [of_rounds(measured, f"{arm.name} {label}") for label in _WORK]
        work.add(arm.title, *(f"{median(cell):,.0f}" if cell else "-" for cell in cells))
    gains = [of_rounds(measured, f"flowrt {label} x1", f"flowrt {label} x2") for label in _WORK]
    work.add("flowrt, speedup of two workers over one", *(f"{median(gain):.2f}x" if gain else "-" for gain in gains))
    yield work


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1].split(","), int(sys.argv[2]))))
