"""Work in the processes of distributed peers: an item in a thread, or several on a loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from functools import cache
from http.client import HTTPConnection
from typing import Any, Final
from urllib.parse import urlsplit

from bench.by_hand import ByHand
from bench.jobs import FirstAttemptError, Job, compute, job_of, with_retries
from bench.workloads import Workload, workload

__all__ = ["flush", "kept_job", "run_chunk", "run_item", "run_numbers"]

_failed: Final[set[int]] = set()
_jobs: Final[dict[tuple[str, bool], Job]] = {}
_open: Final[list[Any]] = []  # contexts of the kept jobs
_local: Final = threading.local()
_lock: Final = threading.Lock()
_telemetry: Final[list[ByHand]] = []


def flush() -> None:
    """Send pending spans of this process."""
    if _telemetry:
        _telemetry[0].flush()


# -- in a thread -------------------------------------------------------------------------------------------------------


def run_item(name: str, number: int, observed: bool = False) -> int:
    """Run one item in a thread of a worker process.

    Args:
        name: Name of the workload.
        number: Number of the item.
        observed: True for telemetry by hand; retries are then by hand too, within the span.

    Raises:
        FirstAttemptError: The first attempt of an item that fails at first.
    """
    work = workload(name)
    if not observed:
        return _attempt(work, number)
    return _by_hand().observe(number, lambda: _retried(work, number))


def _retried(work: Workload, number: int) -> int:
    for _ in range(1, work.attempts):
        try:
            return _attempt(work, number)
        except FirstAttemptError:
            continue
    return _attempt(work, number)


def _attempt(work: Workload, number: int) -> int:
    if work.kind == "cpu":
        return compute(number)
    if work.kind == "http":
        return _ask(number)
    if work.kind != "noop":
        time.sleep(_times_s(work.name)[number - 1])
    if work.fails_first(number) and number not in _failed:
        _failed.add(number)
        raise FirstAttemptError(f"item {number}")
    return number


@cache
def _times_s(name: str) -> list[float]:
    return workload(name).times_s()


def _ask(number: int) -> int:
    """Answer of the HTTP service, over a connection of this thread."""
    connection: HTTPConnection | None = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = HTTPConnection(urlsplit(os.environ["BENCH_HTTP"]).netloc)
    connection.request("GET", f"/{number}")
    return int(connection.getresponse().read())


# -- on a loop ---------------------------------------------------------------------------------------------------------


async def run_chunk(name: str, numbers: Sequence[int], at_once: int, observed: bool = False) -> list[int]:
    """Run several items on a loop that ends with them.

    Args:
        name: Name of the workload.
        numbers: Numbers of the items.
        at_once: Concurrency.
        observed: True for telemetry by hand.
    """
    work = workload(name)
    async with job_of(work) as job:
        return await run_numbers(_observed(with_retries(job, work.attempts), observed=observed), numbers, at_once)


async def kept_job(name: str, observed: bool, *, retried: bool) -> Job:
    """The job of a workload, made once for the life of this process and its loop.

    Args:
        name: Name of the workload.
        observed: True for telemetry by hand.
        retried: True if the job retries by itself.
    """
    made = _jobs.get((name, retried))
    if made is None:
        work = workload(name)
        context = job_of(work)
        _open.append(context)
        job = await context.__aenter__()
        made = _jobs[name, retried] = _observed(with_retries(job, work.attempts if retried else 1), observed=observed)
    return made


async def run_numbers(job: Job, numbers: Sequence[int], at_once: int) -> list[int]:
    """Run several items on this loop.

    Args:
        job: Work of an item.
        numbers: Numbers of the items.
        at_once: Concurrency.
    """
    todo, done = iter(enumerate(numbers)), [0] * len(numbers)

    async def worker() -> None:
        for index, number in todo:
            done[index] = await job({"x": number})

    await asyncio.gather(*(worker() for _ in range(min(at_once, len(numbers)))))
    return done


def _observed(job: Job, *, observed: bool) -> Job:
    return _by_hand().around(job) if observed else job


def _by_hand() -> ByHand:
    """Telemetry of this process, made on first use."""
    with _lock:
        if not _telemetry:
            _telemetry.append(ByHand(os.environ["BENCH_COLLECTOR"]))
    return _telemetry[0]
