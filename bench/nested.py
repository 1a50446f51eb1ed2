"""Nested batches: 1,000 items whose node maps a child over ten more, beside `gather` in turn in one process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from bench.collector import collector
from bench.machine import about, last_core
from bench.measure import run_module
from bench.tables import Table, spread
from bench.turns import OURS, BatchArm, Way, delivering, run_pinned, take_turns

__all__ = ["NESTED", "child_us", "main", "measure_nested", "nested_ratios", "nested_tables"]

_OUTER: Final = 1_000
_CHILDREN: Final = 10
_AT_ONCE: Final = 100
_TURNS: Final = 3


NESTED: Final = OURS


def measure_nested(
    arms: Sequence[BatchArm],
    rounds: int,
    cut: int,
    say: Callable[[str], None],
    run: Callable[[BatchArm, int, str], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure every arm, each beside `gather` in its own process.

    Args:
        arms: Arms in the order of their turns.
        rounds: Processes of each arm.
        cut: Divisor of the number of outer items.
        say: Reports the progress.
        run: Runs one arm with a number of outer items, given the collector's URL; in a process of its own by default.

    Returns:
        The JSON: the costs of the turns of `gather` and of the arm in every process.

    Raises:
        BenchError: A process failed.
    """
    run = run or _in_a_process
    outer = max(10, _OUTER // cut)
    runs: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    with collector(not_on=last_core()) as url:
        for number in range(rounds):
            say(f"nested: round {number + 1} of {rounds}")
            for arm in arms:
                runs[arm.name].append(run(arm, outer, url))
    return {"machine": about(), "rounds": rounds, "missing": {}, "nested": {"items": outer * _CHILDREN, "runs": runs}}


def _in_a_process(arm: BatchArm, outer: int, url: str) -> dict[str, Any]:
    made: dict[str, Any] = run_module(
        "bench.nested", [arm.name, str(outer)], f"nested batches of {arm.name}", {"BENCH_COLLECTOR": url}
    )
    return made


def main(name: str, outer: int) -> dict[str, list[dict[str, float]]]:
    """Run `gather` and one arm in turn in this process.

    Args:
        name: Name of the arm.
        outer: Items of the outer batch.

    Raises:
        ValueError: A batch gave wrong outputs.
    """
    return run_pinned(_turns({arm.name: arm for arm in NESTED}[name], outer))


async def _turns(arm: BatchArm, outer: int) -> dict[str, list[dict[str, float]]]:
    from flowrt import BatchProcessor, MapNode

    inputs = [{"items": [number * _CHILDREN + child for child in range(_CHILDREN)]} for number in range(outer)]
    wanted = [item["items"] for item in inputs]

    async def child(data: dict[str, int]) -> int:
        return data["item"]

    async def gather() -> None:
        permits = asyncio.Semaphore(_AT_ONCE)

        async def one(item: dict[str, list[int]]) -> list[int]:
            async with permits:
                return await asyncio.gather(*(child({"item": each}) for each in item["items"]))

        _check("gather", await asyncio.gather(*map(one, inputs)), wanted)

    processor = BatchProcessor(MapNode("children", child), _AT_ONCE, name="outer", telemetry=bool(arm.telemetry))

    async with AsyncExitStack() as stack:
        flush = await stack.enter_async_context(delivering()) if arm.delivers else None

        async def ours() -> None:
            results = await processor.batch(inputs)
            if flush is not None:
                await flush()
            _check(arm.name, [output["results"] for output in results.raise_for_failures().outputs], wanted)

        ways: dict[str, Way] = {"gather": gather, arm.name: ours}
        return await take_turns(ways, _TURNS)


def _check(name: str, outputs: Sequence[Sequence[int | None]], wanted: list[list[int]]) -> None:
    if outputs != wanted:
        raise ValueError(f"{name} gave wrong outputs for nested batches")


def child_us(measured: Mapping[str, Any], name: str, way: str, kind: str = "cpu_s") -> list[float]:
    """Microseconds a child, the cheapest turn of each process.

    Args:
        measured: JSON of `measure_nested`.
        name: The arm, whose processes count.
        way: `gather` or the arm.
        kind: `cpu_s` or `wall_s`.
    """
    nested = measured["nested"]
    return [min(turn[kind] for turn in run[way]) / nested["items"] * 1e6 for run in nested["runs"][name]]


def nested_ratios(measured: Mapping[str, Any], name: str) -> list[float]:
    """CPU a child as a multiple of `gather`'s in the same process, by process."""
    pairs = zip(child_us(measured, name, name), child_us(measured, name, "gather"), strict=True)
    return [ours / gather for ours, gather in pairs]


def nested_tables(measured: Mapping[str, Any]) -> Iterator[Table]:
    """The table of nested batches."""
    items = measured["nested"]["items"]
    title = f"{items // _CHILDREN:,} items that map over {_CHILDREN} children each"
    table = Table(title, ("CPU, µs a child", "low", "high", "wall, µs", "CPU of gather", "low", "high"))
    titles = {arm.name: arm.title for arm in NESTED}
    every = [us for name in measured["nested"]["runs"] for us in child_us(measured, name, "gather")]
    walls = [us for name in measured["nested"]["runs"] for us in child_us(measured, name, "gather", "wall_s")]
    table.add("`gather`", *spread(every, ",.1f"), spread(walls, ",.1f")[0], "1.0x", "-", "-")
    for name in measured["nested"]["runs"]:
        us, wall_us = child_us(measured, name, name), child_us(measured, name, name, "wall_s")
        ratios = spread(nested_ratios(measured, name), ".1f", "x")
        table.add(titles[name], *spread(us, ",.1f"), spread(wall_us, ",.1f")[0], *ratios)
    yield table


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
