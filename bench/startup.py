"""What it takes to start and to end: imports, the command, a runtime and the first batch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from bench.collector import collector
from bench.machine import about, last_core
from bench.measure import ROOT, BenchError

__all__ = ["STARTS", "Start", "measure_startup"]

_DEPENDENCIES: Final = (
    "import asyncio, click, opentelemetry.trace, opentelemetry.sdk.trace, prometheus_client, structlog, uvloop"
)
_RUNTIME: Final = """
import time
started = time.perf_counter()
import asyncio, sys, flowrt
async def double(item):
    return 2 * item
async def main():
    global entered, done
    entered = time.perf_counter()
    async with flowrt.Runtime(metrics_port=0, otlp_endpoint=sys.argv[1], log_level="WARNING", log_format="json"):
        ready = time.perf_counter()
        await flowrt.BatchProcessor(double, 100).batch(range(int(sys.argv[2])))
        done = time.perf_counter()
    print(ready - entered, done - ready, time.perf_counter() - done)
asyncio.run(main())
"""


class Start(NamedTuple):
    """One process to start.

    Attributes:
        name: For the JSON.
        title: For tables.
        words: The interpreter's arguments; `{collector}` becomes its URL.
        prints: What the numbers that it prints are, in seconds; empty where the time of the whole process counts.
    """

    name: str
    title: str
    words: tuple[str, ...]
    prints: tuple[str, ...] = ()


STARTS: Final = (
    Start("python", "Python itself", ("-c", "pass")),
    Start("dependencies", "its dependencies, imported", ("-c", _DEPENDENCIES)),
    Start("import", "`import flowrt`", ("-c", "import flowrt")),
    Start("nadoo", "`import nadoo_flow`", ("-c", "import nadoo_flow")),
    Start("help", "`flowrt --help`", ("-m", "flowrt", "--help")),
    Start(
        "runtime",
        "a runtime with metrics and OTLP, one item",
        ("-c", _RUNTIME, "{collector}", "1"),
        ("enter the runtime", "the first batch, of one item", "leave it, its span sent"),
    ),
    Start(
        "busy",
        "the same, 100,000 items",
        ("-c", _RUNTIME, "{collector}", "100000"),
        ("enter the runtime", "a batch of 100,000 items", "leave it, all spans sent"),
    ),
)


def measure_startup(
    starts: Sequence[Start],
    rounds: int,
    say: Callable[[str], None],
    run: Callable[[Start, str], list[float]] | None = None,
) -> dict[str, Any]:
    """Start every process, round by round.

    Args:
        starts: In the order in which they take turns.
        rounds: How often.
        say: Told of the progress.
        run: Starts one, told where the collector is; gives seconds.

    Returns:
        What is written as JSON: for each its title and the seconds of every round.

    Raises:
        BenchError: One failed.
    """
    run = run or _time
    told: dict[str, dict[str, list[float]]] = {start.name: {} for start in starts}
    with collector(not_on=last_core()) as url:
        for number in range(rounds):
            say(f"startup: round {number + 1} of {rounds}")
            for start in starts:
                for what, seconds in zip(start.prints or ("whole",), run(start, url), strict=True):
                    told[start.name].setdefault(what, []).append(seconds)
    return {"machine": about(), "rounds": rounds, "missing": {}, "startup_s": told}


def _time(start: Start, url: str) -> list[float]:
    words = [word.replace("{collector}", url) for word in start.words]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    elapsed_s = time.perf_counter() - began
    if done.returncode:
        raise BenchError(f"{start.title} failed: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}")
    return [float(text) for text in done.stdout.split()] if start.prints else [elapsed_s]
