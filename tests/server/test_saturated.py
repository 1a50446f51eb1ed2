"""Scrapes while the loop never idles: the server's thread answers, and counters only grow."""

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


def test_scrapes_succeed_while_64_nodes_saturate_the_loop() -> None:
    server = TelemetryServer(0)
    server.start()
    scraped: list[dict[str, float]] = []
    over = threading.Event()

    def scrape() -> None:
        try:
            while len(scraped) < SCRAPES:
                with urllib.request.urlopen(f"{server.url}/metrics", timeout=HANG_S) as answer:  # noqa: S310  # loopback
                    text = answer.read().decode()
                scraped.append(
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
    assert len(scraped) == SCRAPES, "a scrape failed"
    nodes: list[dict[str, Any]] = [{n: v for n, v in each.items() if n.startswith("node-")} for each in scraped]
    assert len(nodes[-1]) == NODES
    assert sum(nodes[-1].values()) > 0
    for before, after in pairwise(nodes):
        assert all(after[name] >= count for name, count in before.items())
