"""Retries, threads, a journal and 10,000 items at once: each beside the same by hand, in turn in one process."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from bench.machine import about
from bench.measure import run_module
from bench.tables import Table, spread
from bench.turns import Way, run_pinned, take_turns

__all__ = ["COSTS", "Cost", "cost_ratios", "cost_tables", "main", "measure_costs"]

_TURNS: Final = 5
_CONCURRENCY: Final = 100  # of every comparison but `wide`


class Cost(NamedTuple):
    """Comparison of flowrt with the same work by hand.

    Attributes:
        name: Name for the command line and the JSON.
        title: Title for tables.
        by: What flowrt is compared with.
        items: Items of a turn.
    """

    name: str
    title: str
    by: str
    items: int


COSTS: Final = (
    Cost("retries", "every item fails once and is retried", "`gather` with a loop by hand", 5_000),
    Cost("threads", "a plain function in 10 threads", "`ThreadPoolExecutor.map`", 5_000),
    Cost("wide", "10,000 items at once", "`gather`", 10_000),
    Cost("journal", "every item in a journal", "the batch without a journal", 5_000),
    Cost("resume", "a journal that has every item", "the batch without a journal", 5_000),
)


def measure_costs(
    costs: Sequence[Cost],
    rounds: int,
    cut: int,
    say: Callable[[str], None],
    run: Callable[[Cost, int], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure every comparison in processes of its own.

    Args:
        costs: The comparisons.
        rounds: Processes of each.
        cut: Divisor of the number of items.
        say: Reports the progress.
        run: Runs one comparison with a number of items; in a process of its own by default.

    Returns:
        The JSON: for each comparison the costs of the turns of both ways in every process.

    Raises:
        BenchError: A process failed.
    """
    run = run or _in_a_process
    made: dict[str, Any] = {}
    for cost in costs:
        say(f"costs: {cost.title}")
        items = cost.items // cut
        made[cost.name] = {"items": items, "runs": [run(cost, items) for _ in range(rounds)]}
    return {"machine": about(), "rounds": rounds, "missing": {}, "costs": made}


def _in_a_process(cost: Cost, items: int) -> dict[str, Any]:
    made: dict[str, Any] = run_module("bench.costs", [cost.name, str(items)], cost.title)
    return made


def main(name: str, items: int) -> dict[str, list[dict[str, float]]]:
    """Run both ways of one comparison in turn in this process.

    Args:
        name: Name of the comparison.
        items: Items of a turn.

    Raises:
        ValueError: A way gave wrong outputs.
    """
    with tempfile.TemporaryDirectory() as folder:
        return run_pinned(take_turns(_WAYS[name](items, Path(folder)), _TURNS))


async def _identity(item: int) -> int:
    return item


def _check(outputs: Sequence[int | None], items: int) -> None:
    if list(outputs) != list(range(items)):
        raise ValueError("a way gave wrong outputs")


def _batch(items: int, node: Callable[[int], Any] = _identity, limit: int = _CONCURRENCY, **settings: Any) -> Way:
    from flowrt import BatchProcessor

    async def turn() -> None:
        results = await BatchProcessor(node, limit, telemetry=False, **settings).batch(range(items))
        _check(results.outputs, items)

    return turn


def _retries(items: int, _: Path) -> dict[str, Way]:
    from flowrt import RetryPolicy

    failed: set[int] = set()

    async def flaky(item: int) -> int:
        if item not in failed:
            failed.add(item)
            raise ConnectionError
        failed.discard(item)
        return item

    async def by_hand() -> None:
        permits = asyncio.Semaphore(_CONCURRENCY)

        async def one(item: int) -> int:
            async with permits:
                for _ in range(2):
                    try:
                        return await flaky(item)
                    except ConnectionError:
                        await asyncio.sleep(0)
            raise ConnectionError

        _check(await asyncio.gather(*map(one, range(items))), items)

    policy = RetryPolicy(2, base=0.0, cap=0.0, budget=None)
    return {"by_hand": by_hand, "flowrt": _batch(items, flaky, retry=policy)}


def _threads(items: int, _: Path) -> dict[str, Way]:
    def plain(item: int) -> int:
        return item

    def mapped() -> None:
        with ThreadPoolExecutor(10) as pool:
            _check(list(pool.map(plain, range(items))), items)

    async def by_hand() -> None:
        mapped()

    return {"by_hand": by_hand, "flowrt": _batch(items, plain, 10)}


def _wide(items: int, _: Path) -> dict[str, Way]:
    async def turning(item: int) -> int:
        await asyncio.sleep(0)
        return item

    async def by_hand() -> None:
        _check(await asyncio.gather(*map(turning, range(items))), items)

    return {"by_hand": by_hand, "flowrt": _batch(items, turning, items)}


def _journal(items: int, folder: Path) -> dict[str, Way]:
    async def journaled() -> None:
        await _batch(items, journal=folder / f"{time.monotonic_ns()}.journal")()

    return {"by_hand": _batch(items), "flowrt": journaled}


def _resume(items: int, folder: Path) -> dict[str, Way]:
    return {"by_hand": _batch(items), "flowrt": _batch(items, journal=folder / "whole.journal")}


_WAYS: Final[dict[str, Callable[[int, Path], dict[str, Way]]]] = {
    "retries": _retries,
    "threads": _threads,
    "wide": _wide,
    "journal": _journal,
    "resume": _resume,
}


def _item_us(measured: Mapping[str, Any], name: str, way: str, kind: str = "cpu_s") -> list[float]:
    """Microseconds an item, the cheapest turn of each process."""
    its = measured["costs"][name]
    return [min(turn[kind] for turn in run[way]) / its["items"] * 1e6 for run in its["runs"]]


def cost_ratios(measured: Mapping[str, Any], name: str) -> list[float]:
    """CPU an item as a multiple of the same by hand in the same process, by process.

    Args:
        measured: JSON of `measure_costs`.
        name: The comparison.
    """
    pairs = zip(_item_us(measured, name, "flowrt"), _item_us(measured, name, "by_hand"), strict=True)
    return [ours / by_hand for ours, by_hand in pairs]


def cost_tables(measured: Mapping[str, Any]) -> Iterator[Table]:
    """The table of all comparisons."""
    heads = ("compared with", "its CPU, µs an item", "flowrt's, µs", "wall, µs", "ratio", "low", "high")
    table = Table("costs beside the same by hand, telemetry off", heads)
    for cost in COSTS:
        if cost.name in measured["costs"]:
            middle = partial(_middle, measured, cost.name)
            figures = (middle("by_hand"), middle("flowrt"), middle("flowrt", "wall_s"))
            table.add(cost.title, cost.by, *figures, *spread(cost_ratios(measured, cost.name), ".2f", "x"))
    yield table


def _middle(measured: Mapping[str, Any], name: str, way: str, kind: str = "cpu_s") -> str:
    return f"{median(_item_us(measured, name, way, kind)):,.1f}"


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
