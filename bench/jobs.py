"""What an item does: the one function that every arm runs, each in its own way."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from bench.workloads import Workload, workload

__all__ = ["FirstAttemptError", "Item", "Job", "job_of", "run_chunk", "run_item", "with_retries"]

Item = dict[str, int]
Job = Callable[[Item], Awaitable[int]]


class FirstAttemptError(Exception):
    """What a flaky item raises the first time."""


@asynccontextmanager
async def job_of(work: Workload) -> AsyncIterator[Job]:
    """The job of a workload, while the block lasts.

    Args:
        work: Which one.
    """
    if work.kind == "noop":
        yield _nothing
    elif work.kind == "http":
        import aiohttp

        connector = aiohttp.TCPConnector(limit=work.concurrency)
        async with aiohttp.ClientSession(os.environ["BENCH_HTTP"], connector=connector) as session:

            async def ask(item: Item) -> int:
                async with session.get(f"/{item['x']}") as response:
                    return int(await response.text())

            yield ask
    elif work.kind == "cpu":

        async def compute(item: Item) -> int:
            return _hash(item["x"])

        yield compute
    else:
        yield _sleeper(work)


async def _nothing(item: Item) -> int:
    return item["x"]


def _hash(number: int) -> int:
    value = number
    for _ in range(1_000):
        value = (value * 1_103_515_245 + 12_345) & 0x7FFFFFFF
    return number if value >= 0 else -1


def _sleeper(work: Workload) -> Job:
    if work.failing:
        seen: set[int] = set()

        async def fail_first(item: Item) -> int:
            number = item["x"]
            await asyncio.sleep(work.seconds)
            if work.fails_first(number) and number not in seen:
                seen.add(number)
                raise FirstAttemptError(f"item {number}")
            return number

        return fail_first
    if work.kind == "sleep":
        seconds = work.seconds

        async def sleep(item: Item) -> int:
            await asyncio.sleep(seconds)
            return item["x"]

        return sleep
    times_s = work.times_s()

    async def sleep_its_time(item: Item) -> int:
        number = item["x"]
        await asyncio.sleep(times_s[(number - 1) % len(times_s)])
        return number

    return sleep_its_time


def with_retries(job: Job, attempts: int) -> Job:
    """Retries as they are written by hand, for what has none of its own; they keep the slot.

    Args:
        job: What to try.
        attempts: How often at most.
    """
    if attempts == 1:
        return job

    async def tried(item: Item) -> int:
        for attempt in range(1, attempts + 1):
            try:
                return await job(item)
            except FirstAttemptError:
                if attempt == attempts:
                    raise
        raise AssertionError("unreachable")

    return tried


# -- in other processes, which import this module ----------------------------------------------------------------------

_failed: set[int] = set()


def run_item(name: str, number: int) -> int:
    """One item in a thread of a worker process.

    Args:
        name: Of the workload.
        number: The item's.
    """
    work = workload(name)
    if work.kind == "cpu":
        return _hash(number)
    if work.kind != "noop":
        time.sleep(work.seconds)
    if work.fails_first(number) and number not in _failed:
        _failed.add(number)
        raise FirstAttemptError(f"item {number}")
    return number


async def run_chunk(name: str, numbers: list[int], concurrency: int) -> list[int]:
    """Several items on one loop of a worker process.

    Args:
        name: Of the workload.
        numbers: The items'.
        concurrency: How many at once.
    """
    work = workload(name)
    async with job_of(work) as job:
        todo, done = iter(enumerate(numbers)), [0] * len(numbers)
        retried = with_retries(job, work.attempts)

        async def worker() -> None:
            for index, number in todo:
                done[index] = await retried({"x": number})

        await asyncio.gather(*(worker() for _ in range(min(concurrency, len(numbers)))))
    return done
