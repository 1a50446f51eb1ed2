"""Libraries that run items in this process, each as its documentation says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.arms.base import Load
from bench.jobs import Item, with_retries
from bench.workloads import Workload

__all__ = ["aiometer_amap", "aiometer_run", "aiostream_map", "langchain_abatch", "taskiq_prepare", "taskiq_run"]


async def aiometer_run(load: Load) -> list[int]:
    """`run_on_each`, whose functions return nothing."""
    import aiometer

    job, outputs = with_retries(load.job, load.work.attempts), [0] * len(load.inputs)

    async def one(item: Item) -> None:
        outputs[item["x"] - 1] = await job(item)

    await aiometer.run_on_each(one, load.inputs, max_at_once=load.concurrency)
    return outputs


async def aiometer_amap(load: Load) -> list[int]:
    """`amap`, whose results come in the order of completion."""
    import aiometer

    job = with_retries(load.job, load.work.attempts)

    async def one(item: Item) -> tuple[int, int]:
        return item["x"], await job(item)

    async with aiometer.amap(one, load.inputs, max_at_once=load.concurrency) as results:
        numbered = [result async for result in results]
    return [output for _, output in sorted(numbered)]


async def aiostream_map(load: Load) -> list[int]:
    """`stream.map` in order, with a limit of tasks."""
    from aiostream import stream

    job = with_retries(load.job, load.work.attempts)
    outputs: list[int] = await stream.list(
        stream.map(stream.iterate(load.inputs), job, ordered=True, task_limit=load.concurrency)
    )
    return outputs


async def langchain_abatch(load: Load) -> list[int]:
    """A runnable's `abatch`, with its own retries if items may fail; tracing is off."""
    from langchain_core.runnables import RunnableLambda

    runnable: Any = RunnableLambda(load.job)
    if load.work.attempts > 1:
        runnable = runnable.with_retry(stop_after_attempt=load.work.attempts, wait_exponential_jitter=False)
    outputs: list[int] = await runnable.abatch(load.inputs, config={"max_concurrency": load.concurrency})
    return outputs


@asynccontextmanager
async def taskiq_prepare(work: Workload) -> AsyncIterator[Any]:
    """A broker in memory, without its default limit of 30 waiting tasks."""
    from taskiq import InMemoryBroker

    broker = InMemoryBroker(max_stored_results=2 * work.items, max_async_tasks=work.concurrency, await_inplace=False)
    await broker.startup()
    try:
        yield broker
    finally:
        await broker.shutdown()


async def taskiq_run(load: Load) -> list[int]:
    """One client for each permit, which sends a task and waits for its result."""
    job, outputs = with_retries(load.job, load.work.attempts), [0] * len(load.inputs)
    task = load.handle.register_task(job, task_name=f"job-{id(job)}")
    source = iter(enumerate(load.inputs))

    async def client() -> None:
        for index, item in source:
            sent = await task.kiq(item)
            outputs[index] = (await sent.wait_result(check_interval=0.001)).return_value

    await asyncio.gather(*(client() for _ in range(load.concurrency)))
    return outputs
