"""Growth of memory with the number of items."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.arms import Load, arm, why_missing
from bench.collector import collector
from bench.environments import environment
from bench.jobs import Item, job_of
from bench.machine import about, last_core
from bench.measure import BenchError, run_module
from bench.nodes import flowrt_node, nadoo_node, take_x
from bench.workloads import workload

__all__ = ["MEMORY", "MEMORY_PEERS", "MemoryArm", "Received", "growth_mib", "main", "measure_memory"]

_MILLION: Final = 1_000_000
_WARM_UP: Final = 1_000
_NOOP: Final = workload("noop")
_SMALLER: Final = (10_000, 100_000)  # beside the full number, for the lines


class Received:
    """Checks that every item comes back once, with its own value; allocates its memory before the run.

    Args:
        items: Number of items.
    """

    def __init__(self, items: int) -> None:
        self._open = bytearray(b"\x01") * items

    def add(self, index: int, output: object) -> None:
        """Count a result.

        Raises:
            BenchError: The result is wrong, or its item already has one.
        """
        if output != index + 1:
            raise BenchError(f"item {index} came back with {output!r}, not {index + 1}")
        if not self._open[index]:
            raise BenchError(f"item {index} came back twice")
        self._open[index] = 0

    def close(self) -> None:
        """Check that every item has come back.

        Raises:
            BenchError: An item has not.
        """
        if missing := self._open.count(1):
            raise BenchError(f"{missing} of {len(self._open)} items did not come back")


@dataclass(frozen=True, slots=True)
class MemoryArm:
    """One way of running many no-op items.

    Args:
        name: Name for the command line.
        title: Title in tables.
        run: Runs the items and adds each result.
        items: Number of items; fewer if a million would need more than a gigabyte.
        lazy: True if its items are made during the run; other arms get a list, which does not count.
        needs: Modules that must be installed.
        peer: Environment that it runs in; None for the bench's own.
        delivers: True if it sends spans to the collector in `BENCH_COLLECTOR`.
    """

    name: str
    title: str
    run: Callable[[Any, Received], Awaitable[None]]
    items: int = _MILLION
    lazy: bool = False
    needs: tuple[str, ...] = ()
    peer: str | None = None
    delivers: bool = False

    @property
    def missing(self) -> str | None:
        """Why it cannot run here; None if it can."""
        return None if self.peer is not None else why_missing(self.needs)


def _whole(name: str) -> Callable[[list[Item], Received], Awaitable[None]]:
    async def run(inputs: list[Item], received: Received) -> None:
        chosen, work = arm(name), _NOOP.of(len(inputs))
        async with (
            job_of(work) as job,
            chosen.prepare(work) if chosen.prepare is not None else nullcontext() as handle,
        ):
            for index, output in enumerate(await chosen.run(Load(work, job, inputs, handle))):
                received.add(index, output)

    return run


async def _flowrt_stream(inputs: Iterable[Item], received: Received) -> None:
    from flowrt import BatchProcessor

    async with job_of(_NOOP) as job:
        async for result in BatchProcessor(flowrt_node(job), _NOOP.concurrency).batch_as_completed(inputs):
            received.add(result.index, result.output)


async def _flowrt_stream_delivered(inputs: Iterable[Item], received: Received) -> None:
    from flowrt import Runtime

    async with Runtime(service_name="bench", otlp_endpoint=os.environ["BENCH_COLLECTOR"], log_format="json"):
        await _flowrt_stream(inputs, received)


async def _flowrt_processes(inputs: Iterable[Item], received: Received) -> None:
    from flowrt import BatchProcessor, ProcessesExecutor

    async with ProcessesExecutor(2) as executor:
        processor = BatchProcessor(take_x, _NOOP.concurrency, executor=executor)
        async for result in processor.batch_as_completed(inputs):
            received.add(result.index, result.output)


async def _nadoo_stream(inputs: list[Item], received: Received) -> None:
    import nadoo_flow

    async with job_of(_NOOP) as job:
        processor = nadoo_flow.BatchProcessor(nadoo_node(job), max_concurrency=_NOOP.concurrency)
        async for result in processor.batch_as_completed(inputs):
            received.add(result.index, result.output)


_FEWER: Final = 100_000
_NADOO: Final = ("nadoo_flow",)

MEMORY: Final = (
    MemoryArm("floor", "floor: the list of outputs alone", _whole("floor")),
    MemoryArm("flowrt-stream", "flowrt `batch_as_completed`, items made lazily", _flowrt_stream, lazy=True),
    MemoryArm(
        "flowrt-stream-delivered",
        "flowrt `batch_as_completed`, everything on, spans sent",
        _flowrt_stream_delivered,
        lazy=True,
        needs=("opentelemetry.exporter.otlp.proto.common",),
        delivers=True,
    ),
    MemoryArm(
        "flowrt-processes",
        "flowrt `batch_as_completed` in two processes: the driver",
        _flowrt_processes,
        lazy=True,
        needs=("cloudpickle",),
    ),
    MemoryArm("flowrt-batch", "flowrt `batch`, a list of results", _whole("flowrt-default")),
    MemoryArm("gather", "`gather` + `Semaphore`", _whole("gather"), items=_FEWER),
    MemoryArm("task-group", "TaskGroup + `Semaphore`", _whole("task-group"), items=_FEWER),
    MemoryArm("nadoo", "nadoo-flow-core 0.1.0 `batch`", _whole("nadoo"), items=_FEWER, needs=_NADOO),
    MemoryArm("nadoo-stream", "nadoo-flow-core 0.1.0 `batch_as_completed`", _nadoo_stream, items=_FEWER, needs=_NADOO),
)

MEMORY_PEERS: Final = (
    MemoryArm("anyio", "anyio 4.16 task group + `CapacityLimiter`", _whole("anyio"), items=20_000, peer="anyio"),
    MemoryArm("aiometer-run", "aiometer 1.0 `run_on_each`", _whole("aiometer-run"), items=_FEWER, peer="aiometer"),
    MemoryArm("aiometer-amap", "aiometer 1.0 `amap`", _whole("aiometer-amap"), items=_FEWER, peer="aiometer"),
    MemoryArm("aiostream", "aiostream 0.8.1 `map`, ordered", _whole("aiostream"), items=_FEWER, peer="aiostream"),
    MemoryArm("langchain", "langchain-core 1.8.1 `abatch`", _whole("langchain"), items=20_000, peer="langchain"),
    MemoryArm("taskiq", "taskiq 0.13 InMemoryBroker", _whole("taskiq"), items=20_000, peer="taskiq"),
)


def growth_mib(which: MemoryArm, items: int) -> float:
    """Peak memory of this process during a run over that before it, in MiB.

    Args:
        which: The arm.
        items: Number of items.

    Raises:
        BenchError: An item was missing, doubled or wrong, or the platform does not report memory.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_growth(which, _WARM_UP))
        return runner.run(_growth(which, items))


async def _growth(which: MemoryArm, items: int) -> float:
    made = ({"x": number} for number in range(1, items + 1))
    inputs = made if which.lazy else list(made)
    received = Received(items)
    gc.collect()
    _forget_peak()
    before = _status_mib("VmRSS:")
    await which.run(inputs, received)
    after = _status_mib("VmHWM:")
    received.close()
    return after - before


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # a peak of the imports would hide growth below it
    except OSError as exc:
        raise BenchError(f"this platform does not let a process reset its peak memory: Linux does ({exc})") from None


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
        arms: Arms in the order of their turns.
        rounds: Runs of each arm.
        cut: Divisor of the number of items.
        say: Reports the progress.
        run: Runs one arm on a number of items; in a process of its own by default.

    Returns:
        The JSON: the machine, and each arm's items and samples in MiB, with one sample each for fewer items.

    Raises:
        BenchError: A run failed.
    """
    run = run or _in_a_process
    missing = {each.name: why for each in arms if (why := each.missing)}
    present = [each for each in arms if each.name not in missing]
    for peer in dict.fromkeys(each.peer for each in present if each.peer is not None):
        environment(peer, say)
    samples: dict[str, list[float]] = {each.name: [] for each in present}
    for number in range(rounds):
        say(f"memory: round {number + 1} of {rounds}")
        for each in present:
            samples[each.name].append(run(each, each.items // cut))
    say("memory: fewer items")
    memory = {
        each.name: {
            "items": each.items // cut,
            "growth_mib": median(samples[each.name]),
            "samples_mib": samples[each.name],
            "fewer": {str(few // cut): run(each, few // cut) for few in _SMALLER if few < each.items},
        }
        for each in present
    }
    return {"machine": about(), "rounds": rounds, "missing": missing, "memory": memory}


def _in_a_process(which: MemoryArm, items: int) -> float:
    python = sys.executable if which.peer is None else environment(which.peer)
    words, what = [which.name, str(items)], f"{which.name} on {items} items"
    if not which.delivers:
        return float(run_module("bench.memory", words, what, python=python))
    with collector(not_on=last_core()) as url:
        return float(run_module("bench.memory", words, what, {"BENCH_COLLECTOR": url}, python))


def main(name: str, items: int) -> float:
    """Run one arm in this process, pinned.

    Args:
        name: Name of the arm.
        items: Number of items.

    Returns:
        The growth in MiB.
    """
    if (core := last_core()) is not None:
        os.sched_setaffinity(0, {core})
    return growth_mib({each.name: each for each in (*MEMORY, *MEMORY_PEERS)}[name], items)


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(main(sys.argv[1], int(sys.argv[2])))}\n")
