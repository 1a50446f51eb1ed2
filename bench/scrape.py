"""Scrapes of /metrics with 64 nodes on a saturated loop: their time, and their cost to the batch."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.request import urlopen

from bench.jobs import job_of
from bench.machine import about, last_core
from bench.measure import ROOT, BenchError
from bench.nodes import flowrt_node
from bench.workloads import workload

__all__ = ["NODES", "main", "measure_scrape"]

NODES: Final = 64
_SECONDS: Final = 3.0
_EVERY_S: Final = 0.25
_NOOP: Final = workload("noop")


def measure_scrape(
    rounds: int, cut: int, say: Callable[[str], None], run: Callable[[bool, float], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Run the batch with and without scrapes, round by round.

    Args:
        rounds: Runs of each.
        cut: Divisor of the time.
        say: Reports the progress.
        run: Runs the batch once for some seconds, scraped or not; in a process of its own by default.

    Returns:
        The JSON: seconds of every scrape, and items a second with and without.

    Raises:
        BenchError: A run failed.
    """
    run = run or _in_a_process
    with_, without, scrapes_s = [], [], []
    for number in range(rounds):
        say(f"scrape: round {number + 1} of {rounds}")
        plain, scraped = run(False, _SECONDS / cut), run(True, _SECONDS / cut)
        without.append(plain["items_per_s"])
        with_.append(scraped["items_per_s"])
        scrapes_s += scraped["scrapes_s"]
    figures = {"nodes": NODES, "every_s": _EVERY_S, "scrapes_s": scrapes_s, "with": with_, "without": without}
    return {"machine": about(), "rounds": rounds, "missing": {}, "scrape": figures}


def _in_a_process(scraped: bool, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.scrape", str(seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url, scrapes_s = process.stdout.readline().strip(), []
        over = time.monotonic() + seconds - _EVERY_S
        while scraped and time.monotonic() < over:
            time.sleep(_EVERY_S)
            started = time.perf_counter()
            with urlopen(url, timeout=30) as answer:  # noqa: S310  # loopback
                page = answer.read().decode()
            scrapes_s.append(time.perf_counter() - started)
            if page.count('flowrt_items_total{batch="node') < NODES:
                raise BenchError(f"the scrape has not all {NODES} nodes")
        out, errors = process.communicate(timeout=60 + seconds)
    finally:
        process.kill()
    if process.returncode:
        raise BenchError(f"the scraped batch failed: {(errors.strip().splitlines() or ['nothing'])[-1]}")
    return {"items_per_s": float(json.loads(out)), "scrapes_s": scrapes_s}


def main(seconds: float) -> float:
    """Keep the loop busy in this process, pinned.

    Args:
        seconds: Duration.

    Returns:
        Items a second.
    """
    import uvloop

    if (core := last_core()) is not None:
        os.sched_setaffinity(0, {core})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_saturated(seconds))


async def _saturated(seconds: float) -> float:
    from flowrt import BatchProcessor, Runtime

    async with Runtime(metrics_port=0, log_format="json", log_level="ERROR") as runtime, job_of(_NOOP) as job:
        nodes = [BatchProcessor(flowrt_node(job), _NOOP.concurrency, name=f"node{number}") for number in range(NODES)]
        for node in nodes:
            await node.batch([{"x": number} for number in range(100)])
        sys.stdout.write(f"{runtime.metrics_url}\n")
        sys.stdout.flush()
        inputs = [{"x": number} for number in range(20_000)]
        batches, started = 0, time.perf_counter()
        while not batches or time.perf_counter() - started < seconds:
            await nodes[0].batch(inputs)
            batches += 1
        return batches * len(inputs) / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(main(float(sys.argv[1])))}\n")
