"""Rounds: every arm once in each, in a fresh process, one after the other, and ratios within the round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.arms import Arm
from bench.collector import collector
from bench.machine import about, last_core
from bench.workloads import Workload

__all__ = ["BenchError", "figures", "measure", "ratios", "run_module", "run_once"]

ROOT = Path(__file__).parents[1]
_LIMIT_S = 600

Sample = dict[str, float]
Say = Callable[[str], None]


class BenchError(Exception):
    """A run failed or gave a wrong result: there is no figure to tell."""


def run_module(module: str, words: Iterable[str], what: str, environment: Mapping[str, str] | None = None) -> Any:
    """Run one of the bench's modules in a fresh process, and read the line of JSON that it prints.

    Args:
        module: Its name.
        words: Its arguments.
        what: What it does, for messages.
        environment: Further variables.

    Raises:
        BenchError: It failed or did not end; the message has its last words.
    """
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *words]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what} did not end within {_LIMIT_S} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise BenchError(f"{what} ended with exit code {done.returncode}: {last[0]}")
    return json.loads(done.stdout.splitlines()[-1])


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
    words = [arm.name, work.name, str(work.items), "-" if core is None else str(core)]
    sample: Sample = run_module("bench.worker", words, f"{arm.name} on {work.name}", {"BENCH_COLLECTOR": url})
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
    with collector(not_on=core) as url:
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


def ratios(work: Mapping[str, Any], over: str, under: str) -> list[float]:
    """How many times the overhead of one arm that of another was, round by round; empty where either did not run.

    Args:
        work: One of `measure`'s workloads.
        over: The one arm.
        under: The other.
    """
    above, below = (work["samples"].get(name, ()) for name in (over, under))
    ideal_s = work["ideal_s"]
    return [(one["wall_s"] - ideal_s) / (other["wall_s"] - ideal_s) for one, other in zip(above, below, strict=False)]


def figures(work: Mapping[str, Any], baseline: str) -> dict[str, dict[str, list[float]]]:
    """What the samples of one workload come to, round by round.

    Args:
        work: One of `measure`'s workloads.
        baseline: The arm to which ratios are taken.

    Returns:
        For each arm: `overhead_us` an item; `to_baseline`, the ratio of its overhead to the baseline's in the same
        round; `to_floor`, that of its wall time to the floor's in the same round; `of_ideal`, the ideal's share of its
        wall time; and `delivered`, the share of its spans that came. Empty where there are no figures.
    """
    items, ideal_s, samples = work["items"], work["ideal_s"], work["samples"]
    floor_s = [sample["wall_s"] for sample in samples.get("floor", ())]
    return {
        name: {
            "overhead_us": [(sample["wall_s"] - ideal_s) / items * 1e6 for sample in its],
            "to_baseline": ratios(work, name, baseline),
            "to_floor": [sample["wall_s"] / other_s for sample, other_s in zip(its, floor_s, strict=False)],
            "of_ideal": [ideal_s / sample["wall_s"] for sample in its if ideal_s],
            "delivered": [sample["delivered"] / items for sample in its if "delivered" in sample],
        }
        for name, its in samples.items()
    }
