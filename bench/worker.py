"""Process of one run: one arm on one workload; prints one line of JSON."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import uvloop

from bench.arms import Arm, Load, arm
from bench.by_hand import ByHand
from bench.collector import count_spans
from bench.jobs import Job, job_of, with_retries
from bench.pace import Pace, pacing
from bench.workloads import Workload, workload

__all__ = ["main"]

_WARM_UP: Final = 2_000
_WARM_UP_SLOW: Final = 20


def main(arm_name: str, workload_name: str, items: int, core: int | None) -> dict[str, float]:
    """Run one arm on one workload.

    Args:
        arm_name: Name of the arm.
        workload_name: Name of the workload.
        items: Number of items.
        core: Core to pin the process to; None for no pinning.

    Returns:
        `items`, `ideal_s`, `wall_s`, `cpu_s` of the process with all its threads, `peak_kib`; `pace_us`, the machine's
        pace, for workloads that never wait; `delivered`, the spans at the collector, for arms that send them.

    Raises:
        ValueError: An output was missing, doubled or wrong, or the arm switched the garbage collector off.
    """
    if core is not None:
        os.sched_setaffinity(0, {core})
    chosen, work = arm(arm_name), workload(workload_name).of(items)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        wall_s, cpu_s, pace = runner.run(_measure(chosen, work))
    if not gc.isenabled():
        raise ValueError(f"{arm_name} switched the garbage collector off: its figures do not compare with the others'")
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measured = {
        "items": items,
        "ideal_s": work.ideal_s,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_kib": peak_kib,
    }
    if pace is not None:
        measured["pace_us"] = pace.us
    if chosen.delivers:
        measured["delivered"] = count_spans(os.environ["BENCH_COLLECTOR"])
    return measured


async def _measure(chosen: Arm, work: Workload) -> tuple[float, float, Pace | None]:
    most = _WARM_UP_SLOW if chosen.most_items is not None and chosen.most_items < _WARM_UP else _WARM_UP
    warm = Workload("noop", "", min(work.items, most), work.concurrency, "noop")
    async with chosen.prepare(work) if chosen.prepare is not None else nullcontext() as handle:
        await _run(chosen, warm, handle)
        if chosen.delivers:
            await asyncio.to_thread(count_spans, os.environ["BENCH_COLLECTOR"])
        gc.collect()  # the garbage of the warm-up is no cost of the run
        if work.ideal_s:  # waiting does not depend on the pace
            return *await _run(chosen, work, handle), None
        with pacing() as pace:
            wall_s, cpu_s = await _run(chosen, work, handle)
        return wall_s - pace.own_s, cpu_s - pace.own_s, pace


async def _run(chosen: Arm, work: Workload, handle: Any) -> tuple[float, float]:
    inputs = [{"x": number} for number in range(1, work.items + 1)]  # from 1: a peer loses falsy outputs
    async with job_of(work) as made:
        started, cpu = time.perf_counter(), time.process_time()
        with _telemetry(chosen) as observed:  # set-up and shutdown are part of its cost
            # one span for each item, whatever its attempts
            job = observed(with_retries(made, work.attempts)) if chosen.by_hand else made
            outputs = await chosen.run(Load(work, job, inputs, handle, chosen.by_hand))
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    if list(outputs) != list(range(1, work.items + 1)):
        raise ValueError(f"{chosen.name} gave wrong outputs for {work.name}: each must be its item's number, once")
    return wall_s, cpu_s


@contextmanager
def _telemetry(chosen: Arm) -> Iterator[Callable[[Job], Job]]:
    if not chosen.by_hand or chosen.distributed:  # distributed items have telemetry where they run
        yield lambda job: job
        return
    telemetry = ByHand(os.environ["BENCH_COLLECTOR"])
    try:
        yield telemetry.around
    finally:
        telemetry.close()


if __name__ == "__main__":
    _, name, of, many, pinned = sys.argv
    sys.stdout.write(json.dumps(main(name, of, int(many), int(pinned) if pinned != "-" else None)) + "\n")
    sys.stdout.flush()
    os._exit(0)  # threads that a peer left running must not delay the end
