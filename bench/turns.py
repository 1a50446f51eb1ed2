"""Turns: several ways of doing the same in one process, one after another, so that the machine's drift affects all."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar

from bench.arms import why_missing
from bench.machine import last_core
from bench.pace import pacing

__all__ = ["OURS", "BatchArm", "Way", "delivering", "run_pinned", "take_turns"]

T = TypeVar("T")
Way = Callable[[], Awaitable[object]]
"""One turn of one way, flushes included."""


class BatchArm(NamedTuple):
    """One way of running batches.

    Attributes:
        name: Name for the command line and the JSON.
        title: Title for tables.
        telemetry: Telemetry of flowrt's batches; None for another library.
        delivers: True if it sends spans to a collector.
        needs: Modules that must be installed.
        in_runtime: True if it runs in a `Runtime` that exports no spans.
    """

    name: str
    title: str
    telemetry: bool | None = None
    delivers: bool = False
    needs: tuple[str, ...] = ()
    in_runtime: bool = False

    @property
    def missing(self) -> str | None:
        """Why it cannot run here; None if it can."""
        return why_missing(self.needs)


OURS: Final = (
    BatchArm("bare", "flowrt, telemetry off", telemetry=False),
    BatchArm("default", "flowrt, default telemetry, no tracer provider", telemetry=True),
    BatchArm("delivered", "flowrt, everything on, spans sent over OTLP", telemetry=True, delivers=True),
)


async def take_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Give every way its turn, round by round, after one turn each that does not count.

    Args:
        ways: By name, in their order.
        rounds: Turns of each way.

    Returns:
        For each way and round: `cpu_s` of the process with all its threads, `wall_s`, and the machine's pace meanwhile
        as `pace_us`; the time that finding the pace took is subtracted.
    """
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            gc.collect()  # the garbage of one way is no cost of the next
            with pacing() as pace:
                wall, cpu = time.perf_counter(), time.process_time()
                await way()
                wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
            if number:
                costs[name].append({"cpu_s": cpu_s - pace.own_s, "wall_s": wall_s - pace.own_s, "pace_us": pace.us})
    return costs


@asynccontextmanager
async def delivering() -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """A Runtime that sends spans to the collector in BENCH_COLLECTOR; yields a coroutine function that flushes."""
    from opentelemetry import trace

    from flowrt import Runtime

    endpoint = os.environ["BENCH_COLLECTOR"]
    async with Runtime(service_name="bench", otlp_endpoint=endpoint, log_format="json", log_level="INFO"):
        provider: Any = trace.get_tracer_provider()
        yield lambda: asyncio.to_thread(provider.force_flush)


def run_pinned(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop, with this process pinned to one core if the platform allows it.

    Args:
        main: The coroutine.
    """
    import uvloop

    if (core := last_core()) is not None:
        os.sched_setaffinity(0, {core})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
