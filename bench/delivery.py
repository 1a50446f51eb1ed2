"""Delivery: spans that arrive at an idle collector and at a slow one, counted there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from bench.arms import Arm
from bench.collector import collector
from bench.machine import about, last_core
from bench.measure import Sample, run_once
from bench.workloads import workload

__all__ = ["CASES", "Case", "measure_delivery"]


class Case(NamedTuple):
    """One collector and its spans.

    Attributes:
        name: Name in the JSON.
        title: Title in tables.
        delay_s: Delay of the collector's answers, in seconds.
        items: Number of spans.
        by_hand: Number of spans of telemetry by hand, which takes ten times as long to make them.
    """

    name: str
    title: str
    delay_s: float
    items: int
    by_hand: int


CASES: Final = (
    Case("idle", "a collector that answers at once", 0.0, 1_000_000, 100_000),
    Case("slow", "a collector that answers after 100 ms", 0.1, 100_000, 100_000),
)


def measure_delivery(
    arms: Sequence[Arm], rounds: int, cut: int, say: Callable[[str], None], run: Callable[..., Sample] = run_once
) -> dict[str, Any]:
    """Let every arm send as fast as it can, and count the spans that arrive.

    Args:
        arms: Arms that send spans.
        rounds: Runs of each arm.
        cut: Divisor of the number of items.
        say: Reports the progress.
        run: Runs one arm once.

    Returns:
        The JSON: for each collector and arm all samples.

    Raises:
        BenchError: A run failed.
    """
    core = last_core()
    missing = {arm.name: arm.missing for arm in arms if arm.missing}
    cases = []
    for case in CASES:
        samples: dict[str, list[Sample]] = {arm.name: [] for arm in arms if arm.name not in missing}
        with collector(case.delay_s, not_on=core) as url:
            for number in range(rounds):
                say(f"delivery to {case.title}: round {number + 1} of {rounds}")
                for arm in arms:
                    if arm.name not in missing:
                        work = workload("noop").of((case.by_hand if arm.by_hand else case.items) // cut)
                        samples[arm.name].append(
                            run(replace(arm, most_items=None), work, {"BENCH_COLLECTOR": url}, core)
                        )
        cases.append({"name": case.name, "title": case.title, "delay_s": case.delay_s, "samples": samples})
    return {"machine": about(), "rounds": rounds, "missing": missing, "cases": cases}
