"""Speedup over sequential execution, at concurrencies from 1 to 1,000."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from bench.arms import Arm, Load, arm
from bench.collector import collector
from bench.jobs import job_of
from bench.machine import about, last_core
from bench.measure import run_module
from bench.workloads import Workload

__all__ = ["CONCURRENCIES", "main", "measure_speedup"]

CONCURRENCIES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
_SECONDS: Final = 0.010
_ROUNDS_OF_SLEEP: Final = 20  # each point takes a fifth of a second, whatever its concurrency


def measure_speedup(
    arms: Sequence[Arm],
    rounds: int,
    say: Callable[[str], None],
    run: Callable[[Arm, str], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure every arm at every concurrency, beside real sequential execution in the same process.

    Args:
        arms: Arms in the order of their turns.
        rounds: Runs of each arm.
        say: Reports the progress.
        run: Runs one arm once, given the collector's URL; in a process of its own by default.

    Returns:
        The JSON: for each arm and concurrency the speedup of every round.

    Raises:
        BenchError: A run failed.
    """
    run = run or _in_a_process
    missing = {each.name: each.missing for each in arms if each.missing}
    present = [each for each in arms if each.name not in missing]
    curves: dict[str, dict[str, list[float]]] = {each.name: {} for each in present}
    with collector(not_on=last_core()) as url:
        for number in range(rounds):
            say(f"speedup: round {number + 1} of {rounds}")
            for each in present:
                for concurrency, speedup in run(each, url).items():
                    curves[each.name].setdefault(concurrency, []).append(speedup)
    return {"machine": about(), "rounds": rounds, "missing": missing, "sleep_s": _SECONDS, "speedup": curves}


def _in_a_process(which: Arm, url: str) -> dict[str, Any]:
    curve: dict[str, Any] = run_module(
        "bench.speedup", [which.name], f"speedup of {which.name}", {"BENCH_COLLECTOR": url}
    )
    return curve


def main(name: str) -> dict[int, float]:
    """Run one arm at every concurrency in this process, pinned.

    Args:
        name: Name of the arm.

    Returns:
        The speedup at each concurrency.
    """
    import uvloop

    if (core := last_core()) is not None:
        os.sched_setaffinity(0, {core})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_curve(arm(name)))


async def _curve(which: Arm) -> dict[int, float]:
    work = Workload("speedup", "", _ROUNDS_OF_SLEEP, 1, seconds=_SECONDS)
    await _timed(which, replace(work, items=200, concurrency=100))  # warm-up
    sequential_s = await _timed(arm("sequential"), work) / work.items
    return {
        concurrency: work.items
        * concurrency
        * sequential_s
        / await _timed(which, replace(work, items=work.items * concurrency, concurrency=concurrency))
        for concurrency in CONCURRENCIES
    }


async def _timed(which: Arm, work: Workload) -> float:
    inputs = [{"x": number} for number in range(1, work.items + 1)]
    async with job_of(work) as job:
        started = time.perf_counter()
        outputs = await which.run(Load(work, job, inputs))
        elapsed_s = time.perf_counter() - started
    if outputs != list(range(1, work.items + 1)):
        raise ValueError(f"{which.name} gave wrong outputs at {work.concurrency}: each must be its item's number, once")
    return elapsed_s


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(main(sys.argv[1]))}\n")
