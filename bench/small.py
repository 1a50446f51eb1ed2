"""Small batches: what a batch of few items costs, each beside `gather` in turn with it in one process."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Any, Final

from bench.collector import collector
from bench.jobs import Item, job_of
from bench.machine import about, last_core
from bench.measure import run_module
from bench.nodes import flowrt_node, nadoo_node
from bench.tables import Table, spread
from bench.turns import OURS, BatchArm, delivering, run_pinned
from bench.workloads import workload

__all__ = ["CASES", "SMALL", "cpu_ratios", "growth", "main", "measure_small", "run_small", "small_tables"]

CASES: Final = (*((size, at_once) for at_once in (1, 100) for size in (1, 3, 10, 30)), (3, 4_000))
"""Items of a batch, and batches at once: one after another, or as many as a service has requests."""
_AMONG_MANY: Final = ((3, 1), (3, 4_000))  # cases of the last table
_BATCHES: Final = 400  # of each turn
_TURNS: Final = 8  # of which the cheapest counts: the others were disturbed
_FEWER_TURNS: Final = 3  # of many batches at once, which take longer

RunBatch = Callable[[list[Item]], Awaitable[Sequence[int]]]


_SERVICE: Final = BatchArm("runtime", "flowrt, default telemetry, in a `Runtime`", telemetry=True, in_runtime=True)
"""As in a service: the Runtime tunes the garbage collector. Only for the table of batches among 4,000."""
SMALL: Final = (BatchArm("nadoo", "nadoo-flow-core 0.1.0 `batch`", needs=("nadoo_flow",)), *OURS, _SERVICE)


def measure_small(
    arms: Sequence[BatchArm],
    rounds: int,
    cut: int,
    say: Callable[[str], None],
    run: Callable[[BatchArm, int, int, int, str], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure every arm in every case: 1 to 30 items, one batch after another, 100 and 4,000 at once.

    The arm in a `Runtime` has the cases of the last table only: batches of three, one after another and 4,000 at once.

    Args:
        arms: Arms in the order of their processes.
        rounds: Processes of each arm.
        cut: Divisor of the number of batches.
        say: Reports the progress.
        run: Runs one arm, given the size, the batches at once, the batches of a turn, and the collector's URL; in a
            process of its own by default.

    Returns:
        The JSON: for each case the figures of `gather` and of the arm in every process.

    Raises:
        BenchError: A process failed.
    """
    run = run or run_small
    missing = {arm.name: arm.missing for arm in arms if arm.missing}
    cases = []
    with collector(not_on=last_core()) as url:
        for size, at_once in CASES:
            say(f"small: {size} items, {at_once} at once")
            for arm in (arm for arm in arms if arm.name not in missing and _measures(arm, size, at_once)):
                runs = [run(arm, size, at_once, max(at_once, _BATCHES // cut), url) for _ in range(rounds)]
                cases.append({"arm": arm.name, "items": size, "at_once": at_once, "runs": runs})
    return {"machine": about(), "rounds": rounds, "missing": missing, "small": cases}


def _measures(arm: BatchArm, size: int, at_once: int) -> bool:
    return not arm.in_runtime or (size, at_once) in _AMONG_MANY


def run_small(
    arm: BatchArm, size: int, at_once: int, batches: int, url: str, turns: int | None = None
) -> dict[str, Any]:
    """Run one arm in a process of its own.

    Args:
        arm: The arm.
        size: Items of a batch.
        at_once: Batches at once.
        batches: Batches of a turn.
        url: The collector's URL.
        turns: Turns of `gather` and of the arm; None for 8, or 3 of more than 400 batches.
    """
    turns = turns or (_TURNS if batches <= _BATCHES else _FEWER_TURNS)
    words = [arm.name, *map(str, (size, at_once, batches, turns))]
    made: dict[str, Any] = run_module(
        "bench.small", words, f"{arm.name} on batches of {size}", {"BENCH_COLLECTOR": url}
    )
    return made


def main(name: str, size: int, at_once: int, batches: int, turns: int) -> dict[str, dict[str, float]]:
    """Run `gather` and one arm in turn in this process.

    Args:
        name: Name of the arm.
        size: Items of a batch.
        at_once: Batches at once.
        batches: Batches of a turn.
        turns: Turns of each; the cheapest counts.

    Returns:
        For `gather` and the arm: microseconds of CPU (all threads) and wall time per batch, and the median and the 99th
        percentile of a batch's wall time.

    Raises:
        ValueError: A batch gave wrong outputs.
    """
    return run_pinned(_turns({arm.name: arm for arm in SMALL}[name], size, at_once, batches, turns))


async def _turns(arm: BatchArm, size: int, at_once: int, batches: int, turns: int) -> dict[str, dict[str, float]]:
    inputs = [{"x": number} for number in range(1, size + 1)]
    async with AsyncExitStack() as stack:
        job = await stack.enter_async_context(job_of(workload("noop")))
        flush = await stack.enter_async_context(delivering()) if arm.delivers else None
        if arm.in_runtime:
            from flowrt import Runtime

            await stack.enter_async_context(Runtime(service_name="bench"))

        async def gather(items: list[Item]) -> list[int]:
            return await asyncio.gather(*(job(item) for item in items))

        ways: dict[str, tuple[RunBatch, Any]] = {"gather": (gather, None), arm.name: (_way(arm, job), flush)}
        cheapest: dict[str, tuple[float, float]] = {}
        times_us: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(turns + 1):
            for name, (way, flushed) in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                took_us = await _turn(way, inputs, at_once, batches)
                if flushed is not None:  # delivery is part of the cost
                    await flushed()
                cost = (time.process_time() - cpu) / batches * 1e6, (time.perf_counter() - wall) / batches * 1e6
                if number:  # the first turn warms up
                    cheapest[name] = min(cheapest.get(name, cost), cost)
                    times_us[name] += took_us
    return {
        name: {
            "cpu_us": cpu_us,
            "wall_us": wall_us,
            "p50_us": median(times_us[name]),
            "p99_us": sorted(times_us[name])[int(0.99 * len(times_us[name]))],
        }
        for name, (cpu_us, wall_us) in cheapest.items()
    }


def _way(arm: BatchArm, job: Any) -> RunBatch:
    if arm.telemetry is None:
        import nadoo_flow

        reference: Any = nadoo_flow.BatchProcessor(nadoo_node(job), max_concurrency=100)

        async def batch(items: list[Item]) -> list[int]:
            return [each.output for each in await reference.batch(items, nadoo_flow.WorkflowContext())]

        return batch
    from flowrt import BatchProcessor

    processor = BatchProcessor(flowrt_node(job), 100, telemetry=arm.telemetry)

    async def ours(items: list[Item]) -> list[int]:
        outputs: list[Any] = [each.output for each in await processor.batch(items)]
        return outputs

    return ours


async def _turn(way: RunBatch, inputs: list[Item], at_once: int, batches: int) -> list[float]:
    """Wall time of each batch, in microseconds."""
    wanted = [item["x"] for item in inputs]
    took_us: list[float] = []

    async def client(count: int) -> None:
        for _ in range(count):
            started = time.perf_counter()
            outputs = await way(inputs)
            took_us.append((time.perf_counter() - started) * 1e6)
            if list(outputs) != wanted:
                raise ValueError(f"a batch gave {outputs!r}, not {wanted!r}")

    if at_once == 1:
        await client(batches)
    else:
        await asyncio.gather(*(client(batches // at_once) for _ in range(at_once)))
    return took_us


def cpu_ratios(case: Mapping[str, Any]) -> list[float]:
    """CPU of an arm's batch as a multiple of `gather`'s in the same process, by process."""
    return [run[case["arm"]]["cpu_us"] / run["gather"]["cpu_us"] for run in case["runs"]]


def small_tables(measured: Mapping[str, Any]) -> Iterator[Table]:
    """One table for each size and number of batches at once, and one of what many at once cost more."""
    heads = ("CPU, µs a batch", "wall, µs", "CPU of gather", "low", "high", "p50, µs", "p99, µs")
    titles = {arm.name: arm.title for arm in SMALL}
    by_case: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for case in measured["small"]:
        if case["arm"] == _SERVICE.name:
            continue
        by_case.setdefault((case["at_once"], case["items"]), []).append(case)
    for (at_once, size), cases in by_case.items():
        how = "one after another" if at_once == 1 else f"{at_once:,} at once"
        table = Table(f"batches of {size} {'item' if size == 1 else 'items'}, {how}", heads)
        every = [run["gather"] for case in cases for run in case["runs"]]
        table.add(
            "`gather`", *_middle(every, "cpu_us", "wall_us"), "1.0x", "-", "-", *_middle(every, "p50_us", "p99_us")
        )
        for case in cases:
            its = [run[case["arm"]] for run in case["runs"]]
            ratios = spread(cpu_ratios(case), ".1f", "x")
            table.add(
                titles[case["arm"]], *_middle(its, "cpu_us", "wall_us"), *ratios, *_middle(its, "p50_us", "p99_us")
            )
        yield table
    yield from _among_many(measured)


def growth(cases: Sequence[Mapping[str, Any]], arm: str, name: str | None = None) -> list[float]:
    """CPU of a batch of three among 4,000 as a multiple of one alone, by process.

    Args:
        cases: The measured cases.
        arm: The arm whose processes count.
        name: Whose figures: the arm's own by default, or those of `gather` in the same processes.
    """
    cpu_us = {
        case["at_once"]: [run[name or arm]["cpu_us"] for run in case["runs"]]
        for case in cases
        if case["items"] == 3 and case["arm"] == arm
    }
    alone, among = (cpu_us.get(at_once, ()) for at_once in (1, 4_000))
    return [many / one for one, many in zip(alone, among, strict=False)]


def _among_many(measured: Mapping[str, Any]) -> Iterator[Table]:
    """What a batch of three costs more among 4,000, each way: the garbage collector visits the objects of all."""
    cases = measured["small"]
    table = Table("a batch of 3 items among 4,000, beside one alone", ("CPU of one alone", "low", "high"))
    if ratios := growth(cases, "bare", "gather"):
        table.add("`gather`, beside flowrt with telemetry off", *spread(ratios, ".2f", "x"))
    if ratios := growth(cases, _SERVICE.name, "gather"):
        table.add("`gather`, in a `Runtime`", *spread(ratios, ".2f", "x"))
    for arm in SMALL:
        if ratios := growth(cases, arm.name):
            table.add(arm.title, *spread(ratios, ".2f", "x"))
    if table.rows:
        yield table


def _middle(runs: Sequence[Mapping[str, float]], *names: str) -> list[str]:
    return [f"{median(run[name] for run in runs):,.1f}" for name in names]


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(int, sys.argv[2:6]))))
