"""Ray: the driver's cost of an item on `RayExecutor`, beside a Ray call per item, Ray Data and Dask.

Everything of one round runs in turn in one process with a local cluster of its own, so that ratios hold on a busy
machine. CPU is that of the driver with all of its threads, not of the workers.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from bench.machine import about
from bench.measure import run_module
from bench.tables import Table, spread

__all__ = ["ON_RAY", "RayArm", "main", "measure_ray", "of_ray_rounds", "ray_tables"]

_NAP_S: Final = 0.05
_AT_ONCE: Final = 500
_TURNS: Final = 3  # of each no-op arm in a round; the cheapest counts: the others were disturbed
_STORE_BYTES: Final = 200_000_000  # Ray Data wants more than the least

_ON_NOOPS: Final = (
    "Where targets are missed: with 1,000 at once a call carries hundreds of items, so that what is left is the "
    "engine, as on the loop, and the mailbox that processes use as well: about 8 µs an item on a machine so busy that "
    "the loop takes 9 µs. Ray Data's driver handles blocks of rows: it does once for a block what flowrt does for "
    "each item, which has an outcome, times, retries and limits of its own."
)
_ON_WAITS: Final = (
    "Where the target is missed: all 250 items of an actor end together, and before their slots wait again, actor and "
    "driver compute for 250 items each, on two cores that other processes use as well; the lowest round met it."
)

Run = Callable[[int], Awaitable[list[int]]]
"""Runs so many items, and returns their outputs."""


@dataclass(frozen=True, slots=True)
class RayArm:
    """One way to run no-op items beside a driver.

    Args:
        name: Its name.
        title: Its description.
        items: Number of items.
        needs: Packages that it needs.
    """

    name: str
    title: str
    items: int
    needs: tuple[str, ...] = ("ray",)

    @property
    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"{absent[0]} is not installed" if absent else None


ON_RAY: Final = (
    RayArm("loop", "flowrt on the loop, 1,000 at once", 50_000),
    RayArm("c=1000", "flowrt, `executor=RayExecutor(1)`, 1,000 at once", 50_000),
    RayArm("c=100", "the same, 100 at once", 20_000),
    RayArm("calls", "a Ray call per item, 100 at once", 2_000),
    RayArm("data", "Ray Data `map`", 100_000, ("ray", "pyarrow")),
    RayArm("dask", "a Dask task per item", 2_000, ("ray", "distributed")),
)


async def _noop(item: int) -> int:
    return item


async def _nap(item: int) -> int:
    await asyncio.sleep(_NAP_S)
    return item


def measure_ray(
    arms: Sequence[RayArm],
    rounds: int,
    cut: int,
    say: Callable[[str], None],
    run: Callable[[Sequence[str], int], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Measure every figure, each round in a process and on a local cluster of its own.

    Args:
        arms: The ways to run items.
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
    for number in range(rounds if names else 0):
        say(f"ray: round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}")
        runs.append(run(names, cut))
    return {"machine": about("ray", "pyarrow", "dask"), "rounds": rounds, "missing": missing, "ray": {"runs": runs}}


def _in_a_process(names: Sequence[str], cut: int) -> dict[str, float]:
    made: dict[str, float] = run_module("bench.on_ray", [",".join(names), str(cut)], "Ray")
    return made


def main(names: Sequence[str], cut: int) -> dict[str, float]:
    """Run one round in this process.

    Args:
        names: The arms.
        cut: Divisor of the number of items.

    Raises:
        ValueError: An output was wrong.
    """
    os.environ["RAY_raylet_start_wait_time_s"] = "120"  # noqa: SIM112  # as Ray spells it
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_round([arm for arm in ON_RAY if arm.name in names], cut))


async def _round(arms: Sequence[RayArm], cut: int) -> dict[str, float]:
    import ray

    from flowrt import RayExecutor, Runtime
    from flowrt.executors.ray_transport import RayTransport

    figures: dict[str, float] = {}
    calls = 0
    call = RayTransport._call  # noqa: SLF001  # counted here, since no one else needs the number

    def count(transport: Any) -> None:
        nonlocal calls
        calls += 1
        call(transport)

    RayTransport._call = count  # type: ignore[method-assign,assignment]  # noqa: SLF001
    ray.init(
        address="local", num_cpus=6, include_dashboard=False, object_store_memory=_STORE_BYTES, log_to_driver=False
    )
    quiet = Runtime(metrics_port=None, log_level="CRITICAL")  # tunes the collector, as in `flowrt run`
    async with quiet, RayExecutor(1) as one, RayExecutor(2) as two:
        make: dict[str, Callable[[], Run]] = {
            "loop": lambda: _ours(None, _noop, 1_000),
            "c=1000": lambda: _ours(one, _noop, 1_000),
            "c=100": lambda: _ours(one, _noop, 100),
            "calls": lambda: _ray_calls(ray, 100),
            "data": _ray_data,
        }
        client: Any = None
        if any(arm.name == "dask" for arm in arms):
            dask = importlib.import_module("distributed")
            client = await dask.Client(n_workers=1, threads_per_worker=1, dashboard_address=None, asynchronous=True)
            make["dask"] = lambda: _dask(client)
        runs = {arm.name: make[arm.name]() for arm in arms}
        for run in runs.values():
            await run(1_000)
        for _ in range(_TURNS):
            for arm in arms:
                items, calls = max(200, arm.items // cut), 0
                cpu_us, _ = await _measure(arm.name, runs[arm.name], items)
                if cpu_us < figures.get(arm.name, float("inf")):
                    figures[arm.name] = cpu_us
                    if calls and arm.name.startswith("c="):
                        figures[f"items a call {arm.name}"] = items / calls
        if client is not None:
            await client.close()
        if "c=100" in runs:
            figures["round trip"] = (await _measure("round trip", _ours(one, _noop, 1), 200))[1]
            naps, items = _ours(two, _nap, _AT_ONCE), max(_AT_ONCE, 10_000 // cut)
            await naps(_AT_ONCE)
            calls = 0
            figures["naps cpu"], wall_us = await _measure("naps", naps, items)
            figures["items a call naps"] = items / calls
            figures["naps"] = wall_us * items / 1e6 / (-(-items // _AT_ONCE) * _NAP_S)
    ray.shutdown()
    return figures


async def _measure(name: str, run: Run, items: int) -> tuple[float, float]:
    """CPU of this process and wall time of an item, in microseconds."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    outputs = await run(items)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    if outputs != list(range(items)):
        raise ValueError(f"{name} gave wrong outputs")
    return cpu_s / items * 1e6, wall_s / items * 1e6


def _ours(executor: Any, node: Any, at_once: int) -> Run:
    from flowrt import BatchProcessor

    processor = BatchProcessor(node, at_once, telemetry=False, executor=executor)

    async def run(items: int) -> list[int]:
        found: list[Any] = [result.output for result in await processor.batch(range(items))]
        return found

    return run


def _ray_calls(ray: Any, at_once: int) -> Run:
    class Actor:
        async def run(self, item: int) -> int:
            return item

    actor = ray.remote(num_cpus=1)(Actor).options(max_concurrency=at_once).remote()

    async def run(items: int) -> list[int]:
        numbers = iter(range(items))
        outputs = [0] * items

        async def slot() -> None:
            for number in numbers:
                outputs[number] = await actor.run.remote(number)

        await asyncio.gather(*[slot() for _ in range(at_once)])
        return outputs

    return run


def _ray_data() -> Run:
    data = importlib.import_module("ray.data")
    data.DataContext.get_current().enable_progress_bars = False

    async def run(items: int) -> list[int]:
        rows = data.range(items).map(lambda row: row).take_all()
        return sorted(row["id"] for row in rows)

    return run


def _dask(client: Any) -> Run:
    async def run(items: int) -> list[int]:
        found: list[int] = await client.gather(client.map(int, range(items), pure=False))
        return found

    return run


def of_ray_rounds(measured: Mapping[str, Any], name: str, by: str | None = None) -> list[float]:
    """A figure of each round, divided by another one of the same round if that is named."""
    runs = [run for run in measured["ray"]["runs"] if name in run and (by is None or by in run)]
    return [run[name] / (1.0 if by is None else run[by]) for run in runs]


def ray_tables(measured: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of Ray."""
    table = Table("No-op items: CPU of the driver, µs an item", ("median", "low", "high", "items a call"))
    for arm in ON_RAY:
        if arm.name in measured["missing"]:
            table.miss(arm.title, measured["missing"][arm.name])
            continue
        counts = of_ray_rounds(measured, f"items a call {arm.name}")
        count = f"{median(counts):,.0f}" if counts else "1" if arm.name in ("calls", "dask") else "-"
        table.add(arm.title, *spread(of_ray_rounds(measured, arm.name), ",.1f"), count)
    table.notes.append(_ON_NOOPS)
    yield table
    waits = Table("Round trips, and items that wait", ("median", "low", "high"))
    waits.add(
        "round trip, one at a time, ms", *spread([us / 1e3 for us in of_ray_rounds(measured, "round trip")], ".2f")
    )
    title = f"10,000 items of {_NAP_S * 1e3:g} ms, 2 x {_AT_ONCE // 2} at once"
    waits.add(f"{title}: wall time, of the ideal", *spread(of_ray_rounds(measured, "naps"), ".2f", "x"))
    waits.add("  CPU of the driver, µs an item", *spread(of_ray_rounds(measured, "naps cpu"), ".1f"))
    waits.add("  items a call", *spread(of_ray_rounds(measured, "items a call naps"), ".0f"))
    waits.notes.append(_ON_WAITS)
    yield waits


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1].split(","), int(sys.argv[2]))))
