"""Jobs: the work of an item, the same function for every arm."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from bench.workloads import Workload

__all__ = ["FirstAttemptError", "Item", "Job", "compute", "job_of", "with_retries"]

Item = dict[str, int]
Job = Callable[[Item], Awaitable[int]]


class FirstAttemptError(Exception):
    """Failure of a flaky item's first attempt."""


@asynccontextmanager
async def job_of(work: Workload) -> AsyncIterator[Job]:
    """The job of a workload, within the block.

    Args:
        work: The workload.
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

        async def computed(item: Item) -> int:
            return compute(item["x"])

        yield computed
    else:
        yield _sleeper(work)


async def _nothing(item: Item) -> int:
    return item["x"]


def compute(number: int) -> int:
    """Compute for about 0.1 ms; returns the number."""
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
    """Retries by hand, for arms without retries of their own; they keep the slot.

    Args:
        job: Work of an item.
        attempts: Most attempts.
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
