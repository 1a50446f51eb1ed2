"""A scrape while the loop never idles: it is answered from a thread of its own, and what it says only grows."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from itertools import pairwise
from typing import Any

import uvloop
from prometheus_client.parser import text_string_to_metric_families

from flowrt import BatchProcessor, FunctionNode
from flowrt.server import TelemetryServer

NODES = 64
SCRAPES = 5
HANG_S = 60.0


async def nothing(item: int) -> int:
    return item


def test_a_saturated_loop_with_64_nodes_is_scraped_again_and_again() -> None:
    server = TelemetryServer(0)
    server.start()
    told: list[dict[str, float]] = []
    over = threading.Event()

    def scrape() -> None:
        try:
            while len(told) < SCRAPES:
                with urllib.request.urlopen(f"{server.url}/metrics", timeout=HANG_S) as answer:  # noqa: S310  # loopback
                    text = answer.read().decode()
                told.append(
                    {
                        sample.labels["node"]: sample.value
                        for family in text_string_to_metric_families(text)
                        for sample in family.samples
                        if sample.name == "flowrt_items_total" and sample.labels["status"] == "ok"
                    }
                )
        finally:
            over.set()

    async def main() -> None:
        processors = [BatchProcessor(FunctionNode(nothing, f"node-{number}"), 4) for number in range(NODES)]
        scraper = threading.Thread(target=scrape, daemon=True)
        scraper.start()
        while not over.is_set():
            await asyncio.gather(*(processor.batch(range(500)) for processor in processors))

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(main(), HANG_S))
    finally:
        server.stop()
    assert len(told) == SCRAPES, "a scrape failed"
    ours: list[dict[str, Any]] = [{n: v for n, v in each.items() if n.startswith("node-")} for each in told]
    assert len(ours[-1]) == NODES
    assert sum(ours[-1].values()) > 0
    for before, after in pairwise(ours):
        assert all(after[name] >= count for name, count in before.items())
