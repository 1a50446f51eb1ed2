"""Simulated services of known capacity."""

from __future__ import annotations

import asyncio
from typing import Any

from flowrt.loadtest.load_generator import LoadGenerator
from flowrt.loadtest.plan import Plan
from flowrt.loadtest.run import Run
from flowrt.loadtest.search import search
from flowrt.testing import run_virtual


class UslService:
    """Service whose latency follows the Universal Scalability Law for the items in flight.

    Args:
        first_s: Latency of an item alone, in seconds.
        contention: σ.
        coherency: κ.
    """

    def __init__(self, first_s: float, contention: float, coherency: float) -> None:
        self.law = first_s, contention, coherency
        self.in_flight = 0
        self.max_in_flight = 0
        self.calls = 0

    async def __call__(self, item: Any) -> Any:
        first_s, contention, coherency = self.law
        self.calls += 1
        self.in_flight += 1
        n = self.in_flight
        self.max_in_flight = max(self.max_in_flight, n)
        try:
            await asyncio.sleep(first_s * (1 + contention * (n - 1) + coherency * n * (n - 1)))
        finally:
            self.in_flight -= 1
        return item


class Queue:
    """Queue before a number of servers.

    Args:
        servers: Servers, one item each at a time.
        each_s: Service time of an item, in seconds.
    """

    def __init__(self, servers: int, each_s: float) -> None:
        self._servers = asyncio.Semaphore(servers)
        self._each_s = each_s

    async def __call__(self, item: Any) -> Any:
        async with self._servers:
            await asyncio.sleep(self._each_s)
        return item


def load_test(node: Any, **plan: Any) -> tuple[Run, LoadGenerator, float]:
    """A run in virtual time, its load generator, and its virtual duration in seconds."""

    async def main() -> tuple[Run, LoadGenerator, float]:
        loop = asyncio.get_running_loop()
        chosen = Plan(**plan)
        generator = LoadGenerator(node, [1, 2, 3], chosen)
        started = loop.time()
        run = Run(chosen)
        await search(generator, run, lambda _: None)
        return run, generator, loop.time() - started

    result: tuple[Run, LoadGenerator, float] = run_virtual(main())
    return result
