"""Rounds: every arm once in each, in a fresh process, one after the other, and ratios within the round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.arms import Arm
from bench.collector import collector
from bench.machine import about, last_core
from bench.workloads import Workload

__all__ = ["BenchError", "measure", "run_once", "summarize"]

ROOT = Path(__file__).parents[1]
_LIMIT_S = 600

Sample = dict[str, float]
Say = Callable[[str], None]


class BenchError(Exception):
    """A run failed or gave a wrong result: there is no figure to tell."""


def run_once(arm: Arm, work: Workload, url: str, core: int | None) -> Sample:
    """One arm on one workload, in a process of its own.

    Args:
        arm: Which arm.
        work: Which workload.
        url: The collector's.
        core: Where to pin the process.

    Raises:
        BenchError: It failed; the message has its last words.
    """
    command = [
        sys.executable,
        "-m",
        "bench.worker",
        arm.name,
        work.name,
        str(work.items),
        "-" if core is None else str(core),
    ]
    environment = {**os.environ, "BENCH_COLLECTOR": url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(  # ourselves
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise BenchError(f"{arm.name} on {work.name} ended with exit code {done.returncode}: {words[0]}")
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    return sample


def measure(
    arms: Sequence[Arm], workloads: Iterable[Workload], rounds: int, say: Say, run: Callable[..., Sample] = run_once
) -> dict[str, Any]:
    """Measure every arm on every workload.

    Args:
        arms: In the order in which they take turns.
        workloads: What they run.
        rounds: How often.
        say: Told of the progress.
        run: Runs one arm once.

    Returns:
        What is written as JSON: the machine, and for each workload and arm all samples.

    Raises:
        BenchError: An arm failed.
    """
    core = last_core()
    missing = {arm.name: arm.missing for arm in arms if arm.missing}
    present = [arm for arm in arms if not arm.missing]
    works = []
    with collector() as url:
        for work in workloads:
            samples: dict[str, list[Sample]] = {arm.name: [] for arm in present}
            for number in range(rounds):
                say(f"{work.title}: round {number + 1} of {rounds}")
                for arm in present:
                    samples[arm.name].append(run(arm, work, url, core))
            works.append(
                {
                    "name": work.name,
                    "title": work.title,
                    "items": work.items,
                    "concurrency": work.concurrency,
                    "ideal_s": work.ideal_s,
                    "samples": samples,
                }
            )
    return {"machine": about(), "rounds": rounds, "missing": missing, "workloads": works}


def summarize(work: dict[str, Any], baseline: str) -> dict[str, dict[str, float]]:
    """The medians of one workload.

    Args:
        work: One of `measure`'s workloads.
        baseline: The arm to which ratios are taken.

    Returns:
        For each arm: `overhead_us` an item, with `low_us` and `high_us` over the rounds; the ratio of its overhead to
        the baseline's in the same round; and the ratio of its wall time to the floor's and to the ideal.
    """
    items, ideal_s, samples = work["items"], work["ideal_s"], work["samples"]
    base = [sample["wall_s"] - ideal_s for sample in samples.get(baseline, ())]
    floor = [sample["wall_s"] for sample in samples.get("floor", ())]
    summary = {}
    for name, its in samples.items():
        over = [(sample["wall_s"] - ideal_s) for sample in its]
        told = {
            "overhead_us": median(over) / items * 1e6,
            "low_us": min(over) / items * 1e6,
            "high_us": max(over) / items * 1e6,
            "wall_s": median(sample["wall_s"] for sample in its),
        }
        if base:
            told["to_baseline"] = median(mine / other for mine, other in zip(over, base, strict=True))
        if floor:
            told["to_floor"] = median(s["wall_s"] / other for s, other in zip(its, floor, strict=True))
        if ideal_s:
            told["of_ideal"] = median(ideal_s / sample["wall_s"] for sample in its)
        if "delivered" in its[0]:
            told["delivered"] = min(sample["delivered"] for sample in its) / items
        summary[name] = told
    return summary
