"""How memory grows with the number of items that are streamed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.machine import about
from bench.measure import ROOT, BenchError

__all__ = ["measure_memory"]


def _rss_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise BenchError("this platform does not tell a process its peak memory: Linux does")


async def _stream(items: int) -> float:
    """Peak growth in MiB over a stream of lazily made items, after a first thousand of them."""
    from flowrt import BatchProcessor

    async def identity(item: dict[str, int]) -> int:
        return item["x"]

    processor = BatchProcessor(identity, 100)
    before, seen = 0.0, 0
    async for result in processor.batch_as_completed({"x": number} for number in range(items)):
        seen += result.output == result.index
        if seen == 1_000:
            before = _rss_mib()
    if seen != items:
        raise BenchError(f"{seen} of {items} items came back with their own value")
    return _rss_mib() - before


def measure_memory(items: int) -> dict[str, Any]:
    """Measure it in a fresh process.

    Args:
        items: How many to stream.

    Raises:
        BenchError: The run failed.
    """
    command = [sys.executable, "-m", "bench.memory", str(items)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise BenchError(f"the stream of {items} items failed: {done.stderr.strip().splitlines()[-1:]}")
    return {"machine": about(), "items": items, "growth_mib": json.loads(done.stdout)}


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(f"{runner.run(_stream(int(sys.argv[1])))}\n")
