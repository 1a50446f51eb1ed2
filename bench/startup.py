"""Start and end of a process: imports, the command, a runtime and the first batch.

Every process finds all modules compiled, like those of an installed package: in a checkout with PYTHONDONTWRITEBYTECODE
set they are not, and compiling flowrt would count as importing it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from bench.collector import collector
from bench.machine import about, last_core
from bench.measure import ROOT, BenchError

__all__ = ["PACE", "STARTS", "Start", "beyond_ms", "measure_startup"]

PACE: Final = "pace"
"""Name of a printed number that is no part of a start: seconds of one turn of the work that shows the pace."""

_NAMES: Final = """
import sys
before = set(sys.modules)
import flowrt
print(*(name for name in sys.modules if name not in before and name.partition(".")[0] != "flowrt"))
"""
_DEPENDENCIES: Final = """
import importlib, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
"""
_BEYOND: Final = """
import importlib, sys, time
from bench.pace import Pace
names, pace = sys.argv[1].split(), Pace()
pace.look()
started = time.process_time()
for name in names:
    importlib.import_module(name)
theirs_s = time.process_time() - started
pace.look()
started = time.process_time()
import flowrt
ours_s = time.process_time() - started
pace.look()
print(theirs_s, ours_s, pace.us / 1e6)
"""
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
        name: Name in the JSON.
        title: Title in tables.
        words: Arguments of the interpreter; `{collector}` becomes its URL, `{dependencies}` the names of the modules of
            other packages that `import flowrt` loads.
        prints: Names of the printed numbers, in seconds; empty if the time of the whole process counts.
    """

    name: str
    title: str
    words: tuple[str, ...]
    prints: tuple[str, ...] = ()


STARTS: Final = (
    Start("python", "Python itself", ("-c", "pass")),
    Start("dependencies", "what `import flowrt` loads of others", ("-c", _DEPENDENCIES, "{dependencies}")),
    Start("import", "`import flowrt`", ("-c", "import flowrt")),
    Start(
        "beyond",
        "the same in one process, processor time",
        ("-c", _BEYOND, "{dependencies}"),
        ("what it loads of others", "then flowrt itself", PACE),
    ),
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
    """Start every process, round by round, after one start each that compiles the modules.

    Args:
        starts: Starts in the order of their turns.
        rounds: Starts of each process.
        say: Reports the progress.
        run: Starts a process, given the collector's URL; returns seconds.

    Returns:
        The JSON: for each start the seconds of every round.

    Raises:
        BenchError: A process failed.
    """
    times: dict[str, dict[str, list[float]]] = {start.name: {} for start in starts}
    with tempfile.TemporaryDirectory(prefix="flowrt-bench-") as compiled, collector(not_on=last_core()) as url:
        run = run or _Starter(compiled)
        for number in range(rounds + 1):
            say(f"startup: round {number} of {rounds}" if number else "startup: every process once, to compile")
            for start in starts:
                for what, seconds in zip(start.prints or ("whole",), run(start, url), strict=True):
                    if number:
                        times[start.name].setdefault(what, []).append(seconds)
    return {"machine": about(), "rounds": rounds, "missing": {}, "startup_s": times}


def beyond_ms(times: Mapping[str, Mapping[str, Sequence[float]]]) -> list[float]:
    """Cost of `import flowrt` after its dependencies, in milliseconds of processor time at the median pace, by round.

    Args:
        times: `startup_s` in the JSON of `measure_startup`; without the start `beyond` the result is empty.
    """
    if not times.get("beyond"):
        return []
    _, ours, paces = times["beyond"].values()
    usual = median(paces)
    return [seconds * 1e3 * usual / pace for seconds, pace in zip(ours, paces, strict=True)]


class _Starter:
    """Starts processes that share a folder of compiled modules."""

    def __init__(self, compiled: str) -> None:
        self._environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._names = ""
        self._names = self._run(Start("names", "naming what `import flowrt` loads", ("-c", _NAMES)), "").strip()

    def __call__(self, start: Start, url: str) -> list[float]:
        began = time.perf_counter()
        printed = self._run(start, url)
        elapsed_s = time.perf_counter() - began
        return [float(text) for text in printed.split()] if start.prints else [elapsed_s]

    def _run(self, start: Start, url: str) -> str:
        filled = {"{collector}": url, "{dependencies}": self._names}
        done = subprocess.run(
            [sys.executable, *(filled.get(word, word) for word in start.words)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
            env=self._environment,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"{start.title} failed: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}")
        return done.stdout
