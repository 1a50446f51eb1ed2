"""Arms: flowrt and its peers, which run the same items as their documentation says, and return their outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.arms import distributed, libraries, ours, plain
from bench.arms.base import Arm, Load, why_missing

__all__ = ["ARMS", "PEERS", "Arm", "Load", "arm", "why_missing"]

_OTLP: Final = ("opentelemetry.exporter.otlp.proto.common", "opentelemetry.proto")
_SDK: Final = ("opentelemetry.exporter.otlp.proto.http",)

ARMS: Final = (
    Arm("floor", "floor: bare workers on one iterator", plain.floor),
    Arm("nadoo", "nadoo-flow-core 0.1.0 `batch`", ours.nadoo, needs=("nadoo_flow",)),
    Arm("gather", "`gather` + `Semaphore`", plain.gather),
    Arm("flowrt-bare", "flowrt, telemetry off", ours.bare),
    Arm("flowrt-metrics", "flowrt, metrics", ours.metrics),
    Arm("flowrt-default", "flowrt, default telemetry, no tracer provider", ours.default),
    Arm(
        "flowrt-delivered",
        "flowrt, everything on, spans sent over OTLP",
        ours.delivered,
        needs=_OTLP,
        delivers=True,
    ),
    Arm(
        "by-hand",
        "`gather` with SDK spans, prometheus_client, structlog by hand",
        plain.gather,
        needs=_SDK,
        delivers=True,
        by_hand=True,
        most_items=20_000,  # slow, and it loses spans
    ),
)
"""Arms of every table, which run in the bench's own environment."""

_PLAIN: Final = (
    Arm("task-group", "TaskGroup + `Semaphore`", plain.task_group),
    Arm("anyio", "anyio 4.16 task group + `CapacityLimiter`", plain.anyio_limiter, peer="anyio", most_items=20_000),
    Arm("aiometer-run", "aiometer 1.0 `run_on_each`", libraries.aiometer_run, peer="aiometer"),
    Arm("aiometer-amap", "aiometer 1.0 `amap`", libraries.aiometer_amap, peer="aiometer"),
    Arm("aiostream", "aiostream 0.8.1 `map`, ordered", libraries.aiostream_map, peer="aiostream", most_items=50_000),
    Arm("langchain", "langchain-core 1.8.1 `abatch`", libraries.langchain_abatch, peer="langchain", most_items=10_000),
    Arm(
        "taskiq",
        "taskiq 0.13 InMemoryBroker",
        libraries.taskiq_run,
        peer="taskiq",
        most_items=20_000,
        prepare=libraries.taskiq_prepare,
    ),
)
_FAR: Final = (
    Arm(
        "ray",
        "Ray 2.60 async actors, a call an item",
        distributed.ray_items,
        peer="ray",
        distributed=True,
        most_items=2_000,
        prepare=distributed.ray_prepare,
    ),
    Arm(
        "ray-chunks",
        "Ray 2.60 async actors, chunks of 100",
        distributed.ray_chunks,
        peer="ray",
        distributed=True,
        prepare=distributed.ray_prepare_chunks,
    ),
    Arm(
        "dask",
        "Dask 2026.8, a task an item",
        distributed.dask_items,
        peer="dask",
        distributed=True,
        most_items=2_000,
        prepare=distributed.dask_prepare,
    ),
    Arm(
        "dask-chunks",
        "Dask 2026.8, chunks of 100",
        distributed.dask_chunks,
        peer="dask",
        distributed=True,
        prepare=distributed.dask_prepare_chunks,
    ),
    Arm(
        "prefect",
        "Prefect 3.9 `map`",
        distributed.prefect_map,
        peer="prefect",
        distributed=True,
        most_items=100,
        prepare=distributed.prefect_prepare,
    ),
    Arm(
        "dbos",
        "DBOS 3.4, SQLite queue",
        distributed.dbos_run,
        peer="dbos",
        distributed=True,
        most_items=200,
        prepare=distributed.dbos_prepare,
    ),
)


def _by_hand(bare: Arm) -> Arm:
    """The arm with telemetry by hand around its job."""
    name, title = f"{bare.name}-by-hand", f"{bare.title}, telemetry by hand"
    fewer = min(bare.most_items or 10_000, 10_000)
    return replace(bare, name=name, title=title, by_hand=True, delivers=True, needs=_SDK, most_items=fewer)


_BASELINES: Final = tuple(each for each in ARMS if each.name in ("floor", "nadoo"))

PEERS: Final = (*_PLAIN, *map(_by_hand, (*_BASELINES, *_PLAIN)), *_FAR, *map(_by_hand, _FAR))
"""Arms measured on demand, each in an environment of its own."""


_UNLISTED: Final = (
    Arm("sequential", "one after the other", plain.sequential),
    Arm("flowrt-journal", "flowrt, telemetry off, with a journal", ours.journaled),
)
"""Arms of no table: their cost is the disk's, or not per item. `--arm NAME` runs one."""


def arm(name: str) -> Arm:
    """The arm of a name.

    Raises:
        KeyError: The name is unknown.
    """
    return {each.name: each for each in (*ARMS, *PEERS, *_UNLISTED)}[name]
