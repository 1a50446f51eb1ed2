"""Batches that show everything the dashboards can show: for tests and pictures.

`python -m dashboards.generator.trial [WELL_S]` prints the address of its metrics and runs batches until it is stopped:

- `airports`: after WELL_S seconds, node `enrich` fails for one item in five, retries, and blocks the event loop;
- `invoices`: node `price` is healthy and waits for its rate limit;
- `photos`: node `resize` has stragglers, which are hedged;
- `scans`: node `read_scan` runs in a worker process, which one item in a thousand kills;
- `quotes`: batches of a few items, several a second; after WELL_S seconds one in eight fails.

One instrument raises, and the collector refuses every span, so that both show up.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from flowrt import (
    BatchProcessor,
    CircuitBreaker,
    FunctionNode,
    Hedge,
    Instrument,
    ItemRecord,
    ProcessesExecutor,
    RateLimit,
    RetryPolicy,
    Runtime,
)

__all__ = ["trial"]

_BLOCKED_S: Final = 0.4
_BLOCKED_ITEM: Final = 151

_chance = random.Random(7)  # noqa: S311  # a fixed seed, so that runs look alike


class Broken(Instrument):
    """An instrument that raises at the first item."""

    def item_finished(self, item: ItemRecord) -> None:
        """Raise."""
        raise RuntimeError(f"item {item.index} was too much")


class Failing:
    """Nodes that fail from some time on.

    Args:
        wrong_from_s: Start of the failures, by the monotonic clock.
    """

    def __init__(self, wrong_from_s: float) -> None:
        self._wrong_from_s = wrong_from_s

    async def enrich(self, number: int) -> int:
        """Fail always for one item in five, and on the first attempt for one in twenty."""
        await asyncio.sleep(_chance.uniform(0.02, 0.06))
        return number if time.monotonic() < self._wrong_from_s else self._go_wrong(number)

    async def quote(self, number: int) -> int:
        """Fail for the first item of one batch in eight."""
        await asyncio.sleep(_chance.uniform(0.005, 0.015))
        if number == 0 and time.monotonic() >= self._wrong_from_s and _chance.random() < 0.125:
            raise LookupError("no quote for this customer")
        return number

    def _go_wrong(self, number: int) -> int:
        if number % _BLOCKED_ITEM == _BLOCKED_ITEM - 1:
            time.sleep(_BLOCKED_S)  # blocks the event loop on purpose
        if number % 5 == 0:
            raise ConnectionResetError("the registry closed the connection")
        if number % 10 == 1 and _chance.random() < 0.5:
            raise TimeoutError("the registry took too long")
        return number


async def price(number: int) -> int:
    """Succeed always."""
    await asyncio.sleep(_chance.uniform(0.01, 0.02))
    return number


async def resize(number: int) -> int:
    """Take a second for one item in fifty, and be quick at the second attempt."""
    await asyncio.sleep(1.0 if _chance.random() < 0.02 else _chance.uniform(0.04, 0.08))
    return number


def read_scan(number: int) -> int:
    """Compute for a millisecond, and kill the worker process for one item in a thousand."""
    end = time.monotonic() + 0.001
    while time.monotonic() < end:
        pass
    if number % 1_000 == 700 and _chance.random() < 0.9:
        os._exit(9)
    return number


async def _repeat(processor: BatchProcessor, items: int, pause_s: float = 0.3) -> None:
    while True:
        async for _ in processor.batch_as_completed(range(items)):
            pass
        await asyncio.sleep(pause_s)


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse every span, as a collector."""
    with suppress(OSError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


async def trial(well_s: float, started: Callable[[str], None]) -> None:
    """Run the batches until cancelled.

    Args:
        well_s: Time without failures, in seconds.
        started: Called with the address of the metrics.
    """
    collector = await asyncio.start_server(_refuse, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{collector.sockets[0].getsockname()[1]}"
    async with (
        collector,
        Runtime(metrics_port=0, otlp_endpoint=address, log_level="CRITICAL", stall_after=0.2) as runtime,
    ):
        started(str(runtime.metrics_url))
        failing = Failing(time.monotonic() + well_s)
        node = FunctionNode(failing.enrich, node_id="enrich")
        again = RetryPolicy(attempts=2, base=0.5, on=(ConnectionError, TimeoutError), budget=None)
        breaker = CircuitBreaker()
        work: list[Awaitable[None]] = [
            _repeat(
                BatchProcessor(node, 12, retry=again, breaker=breaker, name="airports", item_timeout=5),
                12_000,
            ),
            _repeat(
                BatchProcessor(price, 8, rate_limit=RateLimit(60), name="invoices", instruments=[Broken()]),
                240,
            ),
            _repeat(BatchProcessor(resize, 6, hedge=Hedge(after="p95"), name="photos"), 300),
            _repeat(BatchProcessor(read_scan, 20, executor=ProcessesExecutor(1), name="scans"), 2_000, pause_s=5),
            _repeat(BatchProcessor(failing.quote, 4, name="quotes"), 4, pause_s=0.1),
        ]
        await asyncio.gather(*work)


def _print(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(trial(float(sys.argv[1]) if sys.argv[1:] else 0.0, _print))
