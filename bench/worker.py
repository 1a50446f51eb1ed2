"""One arm on one workload in a process of its own: prints one line of JSON."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import time
from typing import Final

import uvloop

from bench.arms import arm
from bench.collector import count_spans
from bench.workloads import Workload, workload

__all__ = ["main"]

_WARM_UP: Final = 2_000


def main(arm_name: str, workload_name: str, items: int, core: int | None) -> dict[str, float]:
    """Run it once.

    Args:
        arm_name: Which arm.
        workload_name: Which workload.
        items: How many items of it.
        core: Where to pin the process, or None for nowhere.

    Returns:
        Seconds of wall time, of processor time, kibibytes of peak memory, and the spans that came to the collector.

    Raises:
        ValueError: An output was missing, doubled or wrong, or the arm switched the garbage collector off.
    """
    if core is not None:
        os.sched_setaffinity(0, {core})
    chosen, work = arm(arm_name), workload(workload_name)
    work = Workload(work.name, work.title, items, work.concurrency, work.sleep_s)
    warm = Workload(work.name, work.title, min(items, _WARM_UP), work.concurrency, None)
    url = os.environ.get("BENCH_COLLECTOR", "")

    async def timed(what: Workload, inputs: list[dict[str, int]]) -> tuple[list[int], float, float]:
        started, cpu = time.perf_counter(), time.process_time()
        outputs = await chosen.run(what, inputs)
        return outputs, time.perf_counter() - started, time.process_time() - cpu

    def run(what: Workload) -> tuple[float, float]:
        inputs = [{"x": number} for number in range(1, what.items + 1)]  # from 1: a peer loses outputs that are falsy
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outputs, wall_s, cpu_s = runner.run(timed(what, inputs))
        if outputs != list(range(1, what.items + 1)):
            raise ValueError(f"{arm_name} gave wrong outputs for {what.name}: each must be its item's number, once")
        return wall_s, cpu_s

    run(warm)
    if chosen.delivers:
        count_spans(url)
    wall_s, cpu_s = run(work)
    if not gc.isenabled():
        raise ValueError(f"{arm_name} switched the garbage collector off: its figures do not compare with the others'")
    measured = {"wall_s": wall_s, "cpu_s": cpu_s, "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    if chosen.delivers:
        measured["delivered"] = count_spans(url)
    return measured


if __name__ == "__main__":
    _, name, of, many, pinned = sys.argv
    sys.stdout.write(json.dumps(main(name, of, int(many), int(pinned) if pinned != "-" else None)) + "\n")
