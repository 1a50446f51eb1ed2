"""What runs in the processes of a peer that has its own: an item in a thread, or several on a loop."""

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
_open: Final[list[Any]] = []  # what the jobs that are kept need
_mine: Final = threading.local()
_making: Final = threading.Lock()
_telemetry: Final[list[ByHand]] = []


def flush() -> None:
    """Send the spans that this process still has."""
    if _telemetry:
        _telemetry[0].flush()


# -- in a thread -------------------------------------------------------------------------------------------------------


def run_item(name: str, number: int, told: bool = False) -> int:
    """One item in a thread of a worker process.

    Args:
        name: Of the workload.
        number: The item's.
        told: Whether it has telemetry by hand; it is then tried again within its span, by hand too.

    Raises:
        FirstAttemptError: It is the first attempt at an item that fails then.
    """
    work = workload(name)
    if not told:
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
    """The HTTP service's answer, by a connection that this thread keeps."""
    connection: HTTPConnection | None = getattr(_mine, "connection", None)
    if connection is None:
        connection = _mine.connection = HTTPConnection(urlsplit(os.environ["BENCH_HTTP"]).netloc)
    connection.request("GET", f"/{number}")
    return int(connection.getresponse().read())


# -- on a loop ---------------------------------------------------------------------------------------------------------


async def run_chunk(name: str, numbers: Sequence[int], at_once: int, told: bool = False) -> list[int]:
    """Several items on a loop that ends with them.

    Args:
        name: Of the workload.
        numbers: The items'.
        at_once: How many run at once.
        told: Whether they have telemetry by hand.
    """
    work = workload(name)
    async with job_of(work) as job:
        return await run_numbers(_told(with_retries(job, work.attempts), told=told), numbers, at_once)


async def kept_job(name: str, told: bool, *, retried: bool) -> Job:
    """The job of a workload, made once and kept for as long as this process and its one loop live.

    Args:
        name: Of the workload.
        told: Whether it has telemetry by hand.
        retried: Whether it tries again by itself.
    """
    made = _jobs.get((name, retried))
    if made is None:
        work = workload(name)
        context = job_of(work)
        _open.append(context)
        job = await context.__aenter__()
        made = _jobs[name, retried] = _told(with_retries(job, work.attempts if retried else 1), told=told)
    return made


async def run_numbers(job: Job, numbers: Sequence[int], at_once: int) -> list[int]:
    """Several items on this loop.

    Args:
        job: What an item does.
        numbers: The items'.
        at_once: How many run at once.
    """
    todo, done = iter(enumerate(numbers)), [0] * len(numbers)

    async def worker() -> None:
        for index, number in todo:
            done[index] = await job({"x": number})

    await asyncio.gather(*(worker() for _ in range(min(at_once, len(numbers)))))
    return done


def _told(job: Job, *, told: bool) -> Job:
    return _by_hand().around(job) if told else job


def _by_hand() -> ByHand:
    """The telemetry of this process."""
    with _making:
        if not _telemetry:
            _telemetry.append(ByHand(os.environ["BENCH_COLLECTOR"]))
    return _telemetry[0]
