"""Arms with processes or a database of their own: each item is sent there, and its result comes back."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.arms.base import Load
from bench.peer_processes import flush, kept_job, run_chunk, run_item, run_numbers
from bench.workloads import Workload

__all__ = [
    "dask_chunks",
    "dask_items",
    "dask_prepare",
    "dask_prepare_chunks",
    "dbos_prepare",
    "dbos_run",
    "prefect_map",
    "prefect_prepare",
    "ray_chunks",
    "ray_items",
    "ray_prepare",
    "ray_prepare_chunks",
]

_CHUNK: Final = 100
_PROCESSES: Final = 2


class _Share(NamedTuple):
    """One process's share of the concurrency, for arms that take chunks.

    Attributes:
        at_once: Items of one chunk that run at once.
        chunks: Chunks that run at once.
    """

    at_once: int
    chunks: int


def _share(work: Workload) -> _Share:
    half = max(1, work.concurrency // _PROCESSES)
    at_once = min(_CHUNK, half)
    return _Share(at_once, half // at_once)


def _numbers(load: Load) -> list[int]:
    return [item["x"] for item in load.inputs]


def _chunks(load: Load) -> list[list[int]]:
    numbers = _numbers(load)
    return [numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK)]


# -- Ray ---------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def ray_prepare(work: Workload) -> AsyncIterator[Any]:
    """Two async actors, each with half of the concurrency."""
    with _actors(max(1, work.concurrency // _PROCESSES)) as actors:
        await asyncio.gather(*(each.one.remote("noop", 1, False) for each in actors))
        yield actors


@asynccontextmanager
async def ray_prepare_chunks(work: Workload) -> AsyncIterator[Any]:
    """Two async actors, each with as many chunks as come to half of the concurrency."""
    with _actors(_share(work).chunks) as actors:
        await asyncio.gather(*(each.one.remote("noop", 1, False) for each in actors))
        yield actors


@contextmanager
def _actors(calls_at_once: int) -> Iterator[list[Any]]:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=_PROCESSES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    class Actor:
        async def one(self, name: str, number: int, observed: bool) -> int:
            job = await kept_job(name, observed, retried=observed)  # else Ray tries again
            return await job({"x": number})

        async def several(self, name: str, numbers: list[int], at_once: int, observed: bool) -> list[int]:
            return await run_numbers(await kept_job(name, observed, retried=True), numbers, at_once)

        async def flush(self) -> None:
            await asyncio.to_thread(flush)

    actor: Any = ray.remote(num_cpus=1, max_concurrency=calls_at_once)(Actor)
    try:
        yield [actor.remote() for _ in range(_PROCESSES)]
    finally:
        ray.shutdown()


async def ray_items(load: Load) -> list[int]:
    """A call for every item; the actors bound the concurrency."""
    retried = load.work.attempts > 1 and not load.observed
    methods = [
        actor.one.options(max_task_retries=load.work.attempts - 1, retry_exceptions=True) if retried else actor.one
        for actor in load.handle
    ]
    calls = [methods[number % len(methods)].remote(load.work.name, number, load.observed) for number in _numbers(load)]
    outputs = list(await asyncio.gather(*calls))
    await _ray_flush(load)
    return outputs


async def ray_chunks(load: Load) -> list[int]:
    """A call for every hundred items, which the actor runs concurrently."""
    at_once = _share(load.work).at_once
    calls = [
        load.handle[place % len(load.handle)].several.remote(load.work.name, chunk, at_once, load.observed)
        for place, chunk in enumerate(_chunks(load))
    ]
    outputs = [output for chunk in await asyncio.gather(*calls) for output in chunk]
    await _ray_flush(load)
    return outputs


async def _ray_flush(load: Load) -> None:
    if load.observed:
        await asyncio.gather(*(actor.flush.remote() for actor in load.handle))


# -- Dask --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def dask_prepare(work: Workload) -> AsyncIterator[Any]:
    """Two processes, each with half of the concurrency in threads."""
    async with _cluster(max(1, min(work.concurrency, 200) // _PROCESSES)) as client:
        yield client


@asynccontextmanager
async def dask_prepare_chunks(work: Workload) -> AsyncIterator[Any]:
    """Two processes, each with a thread for each of its chunks."""
    async with _cluster(_share(work).chunks) as client:
        yield client


@asynccontextmanager
async def _cluster(threads: int) -> AsyncIterator[Any]:
    from dask.distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=_PROCESSES,
        threads_per_worker=threads,
        processes=True,
        dashboard_address=None,
        silence_logs=logging.ERROR,
        asynchronous=True,
    )
    async with cluster, Client(cluster, asynchronous=True) as client:
        await client.gather(client.map(partial(run_item, "noop"), [1, 2], pure=False))
        yield client


async def dask_items(load: Load) -> list[int]:
    """A task for every item."""
    futures = load.handle.map(
        partial(run_item, load.work.name, observed=load.observed),
        _numbers(load),
        pure=False,
        retries=0 if load.observed else load.work.attempts - 1,
    )
    outputs = list(await load.handle.gather(futures))
    await _dask_flush(load)
    return outputs


def _run_chunk(name: str, numbers: list[int], at_once: int, observed: bool) -> list[int]:
    return asyncio.run(run_chunk(name, numbers, at_once, observed))


async def dask_chunks(load: Load) -> list[int]:
    """A task for every hundred items, which a thread runs concurrently on a loop of its own."""
    run = partial(_run_chunk, load.work.name, at_once=_share(load.work).at_once, observed=load.observed)
    futures = load.handle.map(run, _chunks(load), pure=False)
    outputs = [output for chunk in await load.handle.gather(futures) for output in chunk]
    await _dask_flush(load)
    return outputs


async def _dask_flush(load: Load) -> None:
    if load.observed:
        await load.handle.run(flush)


# -- Prefect -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def prefect_prepare(work: Workload) -> AsyncIterator[Any]:
    """A server with a database in a temporary folder, without analytics."""
    with tempfile.TemporaryDirectory() as home:
        _make_database(home)
        os.environ.update(
            PREFECT_HOME=home,
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_LOGGING_LEVEL="ERROR",
            PREFECT_LOGGING_TO_API_ENABLED="false",
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
            DO_NOT_TRACK="1",
        )
        import prefect
        from prefect.task_runners import ThreadPoolTaskRunner

        one: Any = prefect.task(run_item, retries=work.attempts - 1)

        def every(name: str, numbers: list[int], observed: bool) -> list[int]:
            return list(one.map(prefect.unmapped(name), numbers, prefect.unmapped(observed)).result())

        runner: Any = ThreadPoolTaskRunner(max_workers=min(work.concurrency, 100))
        yield prefect.flow(every, task_runner=runner)


def _make_database(home: str) -> None:
    """Copy Prefect's tables, which are slow to make: once for each environment."""
    made = Path(sys.prefix) / "bench-home"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=sys.prefix) as first:
            command = [f"{sys.prefix}/bin/prefect", "server", "database", "upgrade", "--yes"]
            subprocess.run(command, env={**os.environ, "PREFECT_HOME": first}, check=True, capture_output=True)
            Path(first).rename(made)
            Path(first).mkdir()  # for TemporaryDirectory to remove
    shutil.copytree(made, home, dirs_exist_ok=True)


async def prefect_map(load: Load) -> list[int]:
    """A flow that maps a task over the items."""
    outputs: list[int] = await asyncio.to_thread(load.handle, load.work.name, _numbers(load), load.observed)
    await asyncio.to_thread(flush)
    return outputs


# -- DBOS --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def dbos_prepare(work: Workload) -> AsyncIterator[Any]:
    """A queue in an SQLite database in a temporary folder."""
    from dbos import DBOS

    with tempfile.TemporaryDirectory() as folder:
        config: Any = {
            "name": "bench",
            "system_database_url": f"sqlite:///{folder}/bench.sqlite",
            "run_admin_server": False,
            "log_level": "ERROR",
        }
        dbos = DBOS(config=config)
        retries = {
            "retries_allowed": work.attempts > 1,
            "interval_seconds": 0.001,
            "max_attempts": max(2, work.attempts),
        }
        step: Any = DBOS.step(**retries)(run_item)

        def workflow(name: str, number: int, observed: bool) -> Any:
            return step(name, number, observed)

        one: Any = DBOS.workflow()(workflow)
        DBOS.launch()
        try:
            await DBOS.register_queue_async("bench", worker_concurrency=work.concurrency, polling_interval_sec=0.01)
            yield DBOS, one
        finally:
            dbos.destroy()


async def dbos_run(load: Load) -> list[int]:
    """A durable workflow for every item, through a queue."""
    dbos, one = load.handle

    def every() -> list[int]:
        handles = [
            dbos.enqueue_workflow("bench", one, load.work.name, number, load.observed) for number in _numbers(load)
        ]
        outputs = [handle.get_result() for handle in handles]
        flush()
        return outputs

    return await asyncio.to_thread(every)
