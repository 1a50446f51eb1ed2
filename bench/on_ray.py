"""Ray: what an item costs the driver on `RayExecutor`, beside Ray's own ways and Dask: `python -m bench.on_ray`.

All arms run in turn in one process, so that ratios hold on a busy machine. CPU is that of the driver with all of its
threads, not of the workers. An arm whose package is not installed is left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from statistics import median
from typing import Any, Final

import uvloop

import flowrt

__all__ = ["main"]

_ROUNDS: Final = 3
_SLEEP_S: Final = 0.05

Arm = tuple[str, int, float, Callable[[int], Awaitable[list[int]]]]
"""Name, number of items, ideal wall time in seconds, and the function that runs so many items."""


async def noop(item: int) -> int:
    """Return the item."""
    return item


async def sleep(item: int) -> int:
    """Wait 50 ms."""
    await asyncio.sleep(_SLEEP_S)
    return item


def _ours(executor: flowrt.RayExecutor | None, node: Any, at_once: int) -> Callable[[int], Awaitable[list[int]]]:
    processor = flowrt.BatchProcessor(node, at_once, telemetry=False, executor=executor)

    async def run(items: int) -> list[int]:
        found: list[Any] = [result.output for result in await processor.batch(range(items))]
        return found

    return run


def _ray_calls(ray: Any, at_once: int) -> Callable[[int], Awaitable[list[int]]]:
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


def _ray_data() -> Callable[[int], Awaitable[list[int]]]:
    from ray import data

    data.DataContext.get_current().enable_progress_bars = False

    async def run(items: int) -> list[int]:
        rows = data.range(items).map(lambda row: row).take_all()
        return sorted(row["id"] for row in rows)

    return run


def _dask(client: Any) -> Callable[[int], Awaitable[list[int]]]:
    async def run(items: int) -> list[int]:
        found: list[int] = await client.gather(client.map(int, range(items), pure=False))
        return found

    return run


async def _measure(arm: Arm) -> dict[str, float]:
    name, items, _, run = arm
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    outputs = await run(items)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    if outputs != list(range(items)):
        raise ValueError(f"{name} gave wrong outputs")
    return {"cpu_us": 1e6 * cpu_s / items, "wall_us": 1e6 * wall_s / items, "wall_s": wall_s}


async def _run(cut: int) -> list[dict[str, Any]]:
    import ray

    ray.init(address="local", num_cpus=6, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    async with flowrt.RayExecutor(1) as one, flowrt.RayExecutor(2) as two:
        arms: list[Arm] = [
            ("the loop, no-op, 1,000 at once", 50_000, 0.0, _ours(None, noop, 1_000)),
            ("flowrt on Ray, no-op, 100 at once", 20_000, 0.0, _ours(one, noop, 100)),
            ("flowrt on Ray, no-op, 1,000 at once", 50_000, 0.0, _ours(one, noop, 1_000)),
            ("flowrt on Ray, one at a time", 200, 0.0, _ours(one, noop, 1)),
            ("flowrt on Ray, 50 ms, 2 x 250", 10_000, 10_000 * _SLEEP_S / 500, _ours(two, sleep, 500)),
            ("a Ray call per item, no-op, 100 at once", 2_000, 0.0, _ray_calls(ray, 100)),
        ]
        with suppress(ImportError):
            arms.append(("Ray Data map, no-op", 100_000, 0.0, _ray_data()))
        client: Any = None
        with suppress(ImportError):
            from dask.distributed import Client

            client = await Client(n_workers=1, threads_per_worker=1, dashboard_address=None, asynchronous=True)
            arms.append(("a Dask task per item, no-op", 2_000, 0.0, _dask(client)))
        arms = [(name, max(100, items // cut), ideal_s / cut, run) for name, items, ideal_s, run in arms]
        for arm in arms:  # warm up
            await arm[3](100)
        samples: dict[str, list[dict[str, float]]] = {arm[0]: [] for arm in arms}
        for number in range(_ROUNDS):
            sys.stderr.write(f"round {number + 1} of {_ROUNDS}, load {os.getloadavg()[0]:.1f}\n")
            for arm in arms:
                samples[arm[0]].append(await _measure(arm))
        if client is not None:
            await client.close()
    ray.shutdown()
    return [{"arm": arm[0], "items": arm[1], "ideal_s": arm[2], "samples": samples[arm[0]]} for arm in arms]


def main() -> None:
    """Measure; `--quick` takes a tenth of the items. Prints a table, then the samples as a line of JSON."""
    os.environ["RAY_raylet_start_wait_time_s"] = "120"  # noqa: SIM112  # as Ray spells it
    measured = uvloop.run(_run(10 if "--quick" in sys.argv else 1))
    print("| | driver CPU, µs an item | wall, µs an item | wall / ideal |\n|---|---:|---:|---:|")
    for each in measured:
        cpu_us, wall_us, wall_s = (
            median(sample[key] for sample in each["samples"]) for key in ("cpu_us", "wall_us", "wall_s")
        )
        ideal = f"{wall_s / each['ideal_s']:.2f}" if each["ideal_s"] else ""
        print(f"| {each['arm']} | {cpu_us:,.1f} | {wall_us:,.1f} | {ideal} |")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
