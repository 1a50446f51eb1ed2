"""Waiting batches: the share of a core that batches take whose items only wait."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from bench.collector import collector
from bench.machine import about, last_core
from bench.measure import run_module
from bench.tables import Table, spread
from bench.turns import OURS, BatchArm, delivering, run_pinned

__all__ = ["BATCHES", "WAITING", "main", "measure_waiting", "run_waiting", "waiting_tables"]

BATCHES: Final = (100, 1_000, 10_000)
_SECONDS: Final = 3.0
_SETTLE_S: Final = 0.5  # after the last batch has started


_TIMER: Final = "timer"
_TIMER_S: Final = 0.05  # as often as a heartbeat of flowrt on a loop that sleeps
WAITING: Final = (
    BatchArm("gather", "tasks of `gather`"),
    BatchArm(_TIMER, "the same, and a timer that does nothing, 20 times a second"),
    *OURS,
)


def measure_waiting(
    arms: Sequence[BatchArm],
    rounds: int,
    cut: int,
    say: Callable[[str], None],
    run: Callable[[BatchArm, int, float, str], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Measure every arm with 100, 1,000 and 10,000 waiting batches of one item each.

    Args:
        arms: Arms in the order of their turns.
        rounds: Processes of each arm.
        cut: Divisor of the number of batches.
        say: Reports the progress.
        run: Runs one arm with a number of batches for some seconds, given the collector's URL; in a process of its own
            by default.

    Returns:
        The JSON: for each arm and number of batches, the share of a core and microseconds of CPU to start and end one.

    Raises:
        BenchError: A process failed.
    """
    run = run or run_waiting
    cases: list[dict[str, Any]] = [
        {"arm": arm.name, "batches": count // cut, "runs": []} for count in BATCHES for arm in arms
    ]
    named, seconds = {arm.name: arm for arm in arms}, _SECONDS if cut == 1 else 1.0
    with collector(not_on=last_core()) as url:
        for number in range(rounds):
            say(f"waiting: round {number + 1} of {rounds}")
            for case in cases:
                case["runs"].append(run(named[case["arm"]], case["batches"], seconds, url))
    return {"machine": about(), "rounds": rounds, "missing": {}, "waiting": cases}


def run_waiting(arm: BatchArm, batches: int, seconds: float, url: str) -> dict[str, float]:
    """Run one arm in a process of its own.

    Args:
        arm: The arm.
        batches: Number of batches.
        seconds: How long they wait while they are measured.
        url: The collector's URL.
    """
    words = [arm.name, str(batches), str(seconds)]
    made: dict[str, float] = run_module(
        "bench.waiting", words, f"{batches} waiting batches of {arm.name}", {"BENCH_COLLECTOR": url}
    )
    return made


def main(name: str, batches: int, seconds: float) -> dict[str, float]:
    """Start batches that wait, measure them, and let them end, in this process.

    Args:
        name: Name of the arm.
        batches: Number of batches.
        seconds: How long they are measured.

    Returns:
        `share` of a core in CPU (all threads) while they wait, and `each_us`, the CPU of starting and ending one.

    Raises:
        ValueError: A batch gave a wrong result.
    """
    return run_pinned(_wait({arm.name: arm for arm in WAITING}[name], batches, seconds))


async def _wait(arm: BatchArm, batches: int, seconds: float) -> dict[str, float]:
    released = asyncio.Event()
    started, all_started = 0, asyncio.Event()

    async def node(item: int) -> int:
        nonlocal started
        started += 1
        if started == batches:
            all_started.set()
        await released.wait()
        return item

    async with AsyncExitStack() as stack:
        if arm.delivers:
            await stack.enter_async_context(delivering())
        if arm.name == _TIMER:
            _tick()
        cpu = time.process_time()
        tasks = [asyncio.ensure_future(_batch(arm, node, number)) for number in range(batches)]
        await all_started.wait()
        starting_s = time.process_time() - cpu
        await asyncio.sleep(_SETTLE_S)
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.sleep(seconds)
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)
        cpu = time.process_time()
        released.set()
        outputs = await asyncio.gather(*tasks)
        ending_s = time.process_time() - cpu
    if outputs != list(range(batches)):
        raise ValueError(f"{arm.name} gave wrong results for {batches} waiting batches")
    return {"share": share, "each_us": (starting_s + ending_s) / batches * 1e6}


def _tick() -> None:
    asyncio.get_running_loop().call_later(_TIMER_S, _tick)


async def _batch(arm: BatchArm, node: Any, number: int) -> int:
    if arm.telemetry is None:
        output: int = await node(number)
        return output
    from flowrt import BatchProcessor

    (result,) = await BatchProcessor(node, 1, name="waiting", telemetry=arm.telemetry).batch([number])
    made: int = result.output or 0  # None if it failed
    return made


def waiting_tables(measured: Mapping[str, Any]) -> Iterator[Table]:
    """One table for each number of batches."""
    titles = {arm.name: arm.title for arm in WAITING}
    for count in dict.fromkeys(case["batches"] for case in measured["waiting"]):
        table = Table(
            f"{count:,} batches that wait",
            ("share of a core", "low", "high", "CPU to start and end one, µs", "low", "high"),
        )
        for case in measured["waiting"]:
            if case["batches"] == count:
                shares = [run["share"] for run in case["runs"]]
                each_us = [run["each_us"] for run in case["runs"]]
                table.add(titles[case["arm"]], *spread(shares, ".2%"), *spread(each_us, ",.0f"))
        yield table


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
