"""Simulated services, whose capacity is known."""

from __future__ import annotations

import asyncio
from typing import Any

from flowrt.loadtest.load_generator import Driver
from flowrt.loadtest.measurement import Step
from flowrt.loadtest.plan import Plan
from flowrt.loadtest.search import Run, climb
from tests.conftest import run_on, virtual_loop


class UslService:
    """Each item takes as long as the Universal Scalability Law has it for those in flight.

    Args:
        first_s: How long one alone takes, in seconds.
        contention: σ.
        coherency: κ.
    """

    def __init__(self, first_s: float, contention: float, coherency: float) -> None:
        self.law = first_s, contention, coherency
        self.flying = 0
        self.most = 0
        self.calls = 0

    async def __call__(self, item: Any) -> Any:
        first_s, contention, coherency = self.law
        self.calls += 1
        self.flying += 1
        n = self.flying
        self.most = max(self.most, n)
        try:
            await asyncio.sleep(first_s * (1 + contention * (n - 1) + coherency * n * (n - 1)))
        finally:
            self.flying -= 1
        return item


class Queue:
    """So many servers, each of which takes so long; who finds none free waits.

    Args:
        servers: How many.
        each_s: How long an item takes, in seconds.
    """

    def __init__(self, servers: int, each_s: float) -> None:
        self._servers = asyncio.Semaphore(servers)
        self._each_s = each_s

    async def __call__(self, item: Any) -> Any:
        async with self._servers:
            await asyncio.sleep(self._each_s)
        return item


def measured(node: Any, **plan: Any) -> tuple[Run, Driver, float]:
    """A run in virtual time, its driver, and how long it took, in seconds."""

    async def main() -> tuple[Run, Driver, float]:
        loop = asyncio.get_running_loop()
        chosen = Plan(**plan)
        driver = Driver(node, [1, 2, 3], chosen)
        started = loop.time()
        run = Run(chosen)
        await climb(driver, run, _heard)
        return run, driver, loop.time() - started

    told: tuple[Run, Driver, float] = run_on(virtual_loop, main())
    return told


def _heard(_: Step) -> None:
    """Nobody listens."""
