"""The floor, the standard library and anyio."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.arms.base import Load
from bench.jobs import Item, with_retries

__all__ = ["anyio_limiter", "floor", "gather", "sequential", "task_group"]


async def sequential(load: Load) -> list[int]:
    """One item after another, in a loop."""
    job = with_retries(load.job, load.work.attempts)
    return [await job(item) for item in load.inputs]


async def floor(load: Load) -> list[int]:
    """The least possible work: a fixed number of workers on one iterator."""
    job, source = with_retries(load.job, load.work.attempts), iter(enumerate(load.inputs))
    outputs: list[Any] = [None] * len(load.inputs)

    async def worker() -> None:
        for index, item in source:
            outputs[index] = await job(item)

    await asyncio.gather(*(worker() for _ in range(load.concurrency)))
    return outputs


async def gather(load: Load) -> list[int]:
    """A task for every item, bounded by a semaphore."""
    job, semaphore = with_retries(load.job, load.work.attempts), asyncio.Semaphore(load.concurrency)

    async def one(item: Item) -> int:
        async with semaphore:
            return await job(item)

    return await asyncio.gather(*(one(item) for item in load.inputs))


async def task_group(load: Load) -> list[int]:
    """A task for every item in a TaskGroup, bounded by a semaphore."""
    job, semaphore = with_retries(load.job, load.work.attempts), asyncio.Semaphore(load.concurrency)

    async def one(item: Item) -> int:
        async with semaphore:
            return await job(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in load.inputs]
    return [task.result() for task in tasks]


async def anyio_limiter(load: Load) -> list[int]:
    """anyio's task group with its CapacityLimiter."""
    import anyio

    job, limiter = with_retries(load.job, load.work.attempts), anyio.CapacityLimiter(load.concurrency)
    outputs: list[Any] = [None] * len(load.inputs)

    async def one(index: int, item: Item) -> None:
        async with limiter:
            outputs[index] = await job(item)

    async with anyio.create_task_group() as group:
        for index, item in enumerate(load.inputs):
            group.start_soon(one, index, item)
    return outputs
