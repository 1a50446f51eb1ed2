"""A task for each item: its cost beside shared tasks and the reference package, in turn in one process."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

from bench.arms import why_missing
from bench.collector import collector
from bench.jobs import Item, job_of
from bench.machine import about, last_core
from bench.measure import BenchError, run_module
from bench.nodes import flowrt_node, nadoo_node
from bench.tables import Table, spread
from bench.turns import Way, delivering, run_pinned, take_turns
from bench.workloads import workload

__all__ = ["ITEM_TASK", "ItemTaskArm", "item_task_tables", "item_us", "main", "measure_item_task", "paired"]

_NOOP: Final = workload("noop")
_ITEMS: Final = _NOOP.items


class ItemTaskArm(NamedTuple):
    """One way of running no-op items.

    Attributes:
        name: Name for the command line and the JSON.
        title: Title for tables.
        task_per_item: Argument of the processor; None for the reference package.
        needs: Modules that must be installed.
        delivers: True if everything is on and spans are sent to a collector.
    """

    name: str
    title: str
    task_per_item: bool | None = None
    needs: tuple[str, ...] = ()
    delivers: bool = False

    @property
    def missing(self) -> str | None:
        """Why it cannot run here; None if it can."""
        if self.task_per_item and not _has_parameter():
            return "BatchProcessor has no task_per_item"
        return why_missing(self.needs)


ITEM_TASK: Final = (
    ItemTaskArm("nadoo", "nadoo-flow-core 0.1.0 `batch`", needs=("nadoo_flow",)),
    ItemTaskArm("shared", "flowrt, telemetry off, `task_per_item=False`", task_per_item=False),
    ItemTaskArm("per-item", "flowrt, telemetry off, a task for each item", task_per_item=True),
    ItemTaskArm("shared-delivered", "everything on, `task_per_item=False`", task_per_item=False, delivers=True),
    ItemTaskArm("delivered", "everything on, a task for each item", task_per_item=True, delivers=True),
)


def _has_parameter() -> bool:
    from flowrt import BatchProcessor

    return "task_per_item" in inspect.signature(BatchProcessor).parameters


def measure_item_task(
    arms: Sequence[ItemTaskArm],
    rounds: int,
    cut: int,
    say: Callable[[str], None],
    run: Callable[[Sequence[str], int, int, str], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure every arm in turn in one process.

    Args:
        arms: Arms in the order of their turns.
        rounds: Turns of each arm.
        cut: Divisor of the number of items.
        say: Reports the progress.
        run: Runs arms by name: items of a turn, rounds and the collector's URL; in a process of its own by default.

    Returns:
        The JSON: the cost of every turn.

    Raises:
        BenchError: The process failed, or no arm can run here.
    """
    run = run or _in_a_process
    missing = {arm.name: arm.missing for arm in arms if arm.missing}
    names = [arm.name for arm in arms if arm.name not in missing]
    if not names:
        raise BenchError(f"no arm can run here: {'; '.join(map(str, missing.values()))}")
    items = _ITEMS // cut
    say(f"item_task: {rounds} rounds of {', '.join(names)}")
    with collector(not_on=last_core()) as url:
        turns = run(names, items, rounds, url)
    data = {"items": items, "concurrency": _NOOP.concurrency, "turns": turns}
    return {"machine": about(), "rounds": rounds, "missing": missing, "item_task": data}


def _in_a_process(names: Sequence[str], items: int, rounds: int, url: str) -> dict[str, Any]:
    made: dict[str, Any] = run_module(
        "bench.item_task", [str(items), str(rounds), *names], "a task for each item", {"BENCH_COLLECTOR": url}
    )
    return made


def main(items: int, rounds: int, names: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """Run arms in turn in this process.

    Those that deliver take their turns after all others: the Runtime that they need tunes the garbage collector of the
    whole process, from which the reference package would gain.

    Args:
        items: Items of a turn.
        rounds: Turns of each arm.
        names: Names of the arms.

    Raises:
        ValueError: A batch gave wrong outputs.
    """
    arms = {arm.name: arm for arm in ITEM_TASK}
    return run_pinned(_turns([arms[name] for name in names], items, rounds))


async def _turns(arms: Sequence[ItemTaskArm], items: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    inputs: list[Item] = [{"x": number} for number in range(1, items + 1)]
    wanted = list(range(1, items + 1))
    async with AsyncExitStack() as stack:
        job = await stack.enter_async_context(job_of(_NOOP))
        costs = await take_turns({arm.name: _way(arm, job, inputs, wanted) for arm in arms if not arm.delivers}, rounds)
        if late := [arm for arm in arms if arm.delivers]:
            flush = await stack.enter_async_context(delivering())
            ways: dict[str, Way] = {arm.name: _flushed(_way(arm, job, inputs, wanted), flush) for arm in late}
            costs |= await take_turns(ways, rounds)
    return costs


def _way(arm: ItemTaskArm, job: Any, inputs: list[Item], wanted: list[int]) -> Way:
    if arm.task_per_item is None:
        import nadoo_flow

        processor: Any = nadoo_flow.BatchProcessor(nadoo_node(job), max_concurrency=_NOOP.concurrency)
        arguments: tuple[Any, ...] = (inputs, nadoo_flow.WorkflowContext())
    else:
        from flowrt import BatchProcessor

        settings: dict[str, Any] = {"telemetry": arm.delivers}
        if _has_parameter():  # earlier versions share tasks
            settings["task_per_item"] = arm.task_per_item
        processor, arguments = BatchProcessor(flowrt_node(job), _NOOP.concurrency, **settings), (inputs,)

    async def turn() -> None:
        if [result.output for result in await processor.batch(*arguments)] != wanted:
            raise ValueError(f"{arm.name} gave wrong outputs: each must be its item's number, once")

    return turn


def _flushed(way: Way, flush: Way) -> Way:
    async def turn() -> None:
        await way()
        await flush()

    return turn


def item_us(measured: Mapping[str, Any], name: str) -> list[float]:
    """Microseconds of CPU an item at the pace of the median turn, by round; empty if the arm did not run."""
    data = measured["item_task"]
    paces = sorted(turn["pace_us"] for turns in data["turns"].values() for turn in turns)
    usual = paces[len(paces) // 2]
    return [turn["cpu_s"] * usual / turn["pace_us"] / data["items"] * 1e6 for turn in data["turns"].get(name, ())]


def paired(measured: Mapping[str, Any], over: str, under: str, *, ratio: bool) -> list[float]:
    """Ratio or difference (µs) of two arms within each round; empty if either did not run."""
    pairs = zip(item_us(measured, over), item_us(measured, under), strict=False)
    return [a / b if ratio else a - b for a, b in pairs]


def item_task_tables(measured: Mapping[str, Any]) -> Iterator[Table]:
    """The table of CPU an item."""
    data = measured["item_task"]
    title = f"{data['items']:,} no-op items, {data['concurrency']} at once, in turn in one process"
    table = Table(title, ("CPU, µs an item", "low", "high", "of nadoo", "low", "high"))
    for arm in ITEM_TASK:
        if arm.name in measured["missing"]:
            table.miss(arm.title, measured["missing"][arm.name])
        elif us := item_us(measured, arm.name):
            ratios = paired(measured, arm.name, "nadoo", ratio=True)
            table.add(arm.title, *spread(us, ".2f"), *spread(ratios, ".3f", "x"))
    yield table


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
