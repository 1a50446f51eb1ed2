"""How memory grows with the number of items."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.arms import Inputs, arm, why_missing
from bench.machine import about, last_core
from bench.measure import BenchError, run_module
from bench.nodes import flowrt_node, nadoo_node
from bench.workloads import workload

__all__ = ["MEMORY", "Ledger", "MemoryArm", "growth_mib", "main", "measure_memory"]

_MILLION: Final = 1_000_000
_WARM_UP: Final = 1_000
_NOOP: Final = workload("noop")


class Ledger:
    """Which items have come back, each once and with its own value; it takes its memory before the run.

    Args:
        items: How many there are.
    """

    def __init__(self, items: int) -> None:
        self._open = bytearray(b"\x01") * items

    def settle(self, index: int, output: object) -> None:
        """Note a result.

        Raises:
            BenchError: It is wrong, or its item has had one.
        """
        if output != index + 1:
            raise BenchError(f"item {index} came back with {output!r}, not {index + 1}")
        if not self._open[index]:
            raise BenchError(f"item {index} came back twice")
        self._open[index] = 0

    def close(self) -> None:
        """End it.

        Raises:
            BenchError: An item has not come back.
        """
        if missing := self._open.count(1):
            raise BenchError(f"{missing} of {len(self._open)} items did not come back")


@dataclass(frozen=True, slots=True)
class MemoryArm:
    """One way of running many no-op items.

    Args:
        name: For the command line.
        title: For tables.
        run: Runs the items and settles each of them.
        items: How many: fewer than the others' where a million would need more than a gigabyte.
        lazy: Whether its items are made while it runs; others are given a list, which is not counted.
        needs: The modules that must be installed.
    """

    name: str
    title: str
    run: Callable[[Any, Ledger], Awaitable[None]]
    items: int = _MILLION
    lazy: bool = False
    needs: tuple[str, ...] = ()


def _whole(name: str) -> Callable[[Inputs, Ledger], Awaitable[None]]:
    async def run(inputs: Inputs, ledger: Ledger) -> None:
        for index, output in enumerate(await arm(name).run(_NOOP, inputs)):
            ledger.settle(index, output)

    return run


async def _flowrt_stream(inputs: Iterable[dict[str, int]], ledger: Ledger) -> None:
    from flowrt import BatchProcessor

    async for result in BatchProcessor(flowrt_node(None), _NOOP.concurrency).batch_as_completed(inputs):
        ledger.settle(result.index, result.output)


async def _nadoo_stream(inputs: Inputs, ledger: Ledger) -> None:
    import nadoo_flow

    processor = nadoo_flow.BatchProcessor(nadoo_node(None), max_concurrency=_NOOP.concurrency)
    async for result in processor.batch_as_completed(inputs):
        ledger.settle(result.index, result.output)


MEMORY: Final = (
    MemoryArm("floor", "floor: the list of outputs alone", _whole("floor")),
    MemoryArm("flowrt-stream", "flowrt `batch_as_completed`, items made lazily", _flowrt_stream, lazy=True),
    MemoryArm("flowrt-batch", "flowrt `batch`, a list of results", _whole("flowrt-default")),
    MemoryArm("gather", "`gather` + `Semaphore`", _whole("gather"), items=100_000),
    MemoryArm("nadoo", "nadoo-flow-core 0.1.0 `batch`", _whole("nadoo"), items=100_000, needs=("nadoo_flow",)),
    MemoryArm(
        "nadoo-stream",
        "nadoo-flow-core 0.1.0 `batch_as_completed`",
        _nadoo_stream,
        items=100_000,
        needs=("nadoo_flow",),
    ),
)


def growth_mib(which: MemoryArm, items: int) -> float:
    """How far this process's memory grows at its peak over that of before the run, in MiB.

    Args:
        which: Who runs.
        items: How many items.

    Raises:
        BenchError: An item was missing, doubled or wrong, or the platform does not tell.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_settled(which, _WARM_UP))
        return runner.run(_settled(which, items))


async def _settled(which: MemoryArm, items: int) -> float:
    made = ({"x": number} for number in range(1, items + 1))
    inputs = made if which.lazy else list(made)
    ledger = Ledger(items)
    gc.collect()
    _forget_peak()
    before = _status_mib("VmRSS:")
    await which.run(inputs, ledger)
    after = _status_mib("VmHWM:")
    ledger.close()
    return after - before


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # else a peak of the imports would hide growth below it
    except OSError as exc:
        raise BenchError(f"this platform does not let a process forget its peak memory: Linux does ({exc})") from None


def _status_mib(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(field)[2].split()[0]) / 1024


def measure_memory(
    arms: Sequence[MemoryArm],
    rounds: int,
    cut: int,
    say: Callable[[str], None],
    run: Callable[[MemoryArm, int], float] | None = None,
) -> dict[str, Any]:
    """Measure every arm, each time in a fresh process, round by round.

    Args:
        arms: In the order in which they take turns.
        rounds: How often.
        cut: By how much to divide the number of items.
        say: Told of the progress.
        run: Runs one arm on so many items; in a process of its own by default.

    Returns:
        What is written as JSON: the machine, and each arm's items and samples in MiB.

    Raises:
        BenchError: A run failed.
    """
    run = run or _in_a_process
    missing = {each.name: why for each in arms if (why := why_missing(each.needs))}
    present = [each for each in arms if each.name not in missing]
    samples: dict[str, list[float]] = {each.name: [] for each in present}
    for number in range(rounds):
        say(f"memory: round {number + 1} of {rounds}")
        for each in present:
            samples[each.name].append(run(each, each.items // cut))
    told = {
        each.name: {
            "items": each.items // cut,
            "growth_mib": median(samples[each.name]),
            "samples_mib": samples[each.name],
        }
        for each in present
    }
    return {"machine": about(), "rounds": rounds, "missing": missing, "memory": told}


def _in_a_process(which: MemoryArm, items: int) -> float:
    growth: float = run_module("bench.memory", [which.name, str(items)], f"{which.name} on {items} items")
    return growth


def main(name: str, items: int) -> float:
    """Run one arm in this process, pinned.

    Args:
        name: Which arm.
        items: How many items.

    Returns:
        The growth in MiB.
    """
    if (core := last_core()) is not None:
        os.sched_setaffinity(0, {core})
    return growth_mib({each.name: each for each in MEMORY}[name], items)


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(main(sys.argv[1], int(sys.argv[2])))}\n")
