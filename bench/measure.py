"""Rounds: every arm once in each, in a fresh process, one after the other, and ratios within the round."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from bench.arms import Arm
from bench.collector import collector
from bench.environments import environment
from bench.machine import about, last_core, now
from bench.service import http_service
from bench.workloads import Workload

__all__ = ["BenchError", "figures", "measure", "per_item_us", "ratios", "run_module", "run_once"]

ROOT = Path(__file__).parents[1]
_LIMIT_S = 600

Sample = dict[str, float]
Say = Callable[[str], None]


class BenchError(Exception):
    """A run failed or gave a wrong result: there is no figure to tell."""


def run_module(
    module: str,
    words: Iterable[str],
    what: str,
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Any:
    """Run one of the bench's modules in a fresh process, and read the line of JSON that it prints.

    Args:
        module: Its name.
        words: Its arguments.
        what: What it does, for messages.
        environment: Further variables.
        python: The interpreter.

    Raises:
        BenchError: It failed or did not end; the message has its last words.
    """
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": str(ROOT)}
    command = [python, "-m", module, *words]
    with (
        TemporaryFile("w+") as out,
        TemporaryFile("w+") as errors,
    ):  # a pipe would last as long as what it leaves behind
        child = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=out, stderr=errors, start_new_session=True)
        try:
            child.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{what} did not end within {_LIMIT_S} s") from None
        finally:
            with suppress(ProcessLookupError):  # servers and workers that a peer has left running, and itself
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        out.seek(0)
        errors.seek(0)
        if child.returncode:
            last = errors.read().strip().splitlines()[-1:] or ["nothing"]
            raise BenchError(f"{what} ended with exit code {child.returncode}: {last[0]}")
        return json.loads(out.read().splitlines()[-1])


def run_once(arm: Arm, work: Workload, urls: Mapping[str, str], core: int | None) -> Sample:
    """One arm on one workload, in a process of its own.

    Args:
        arm: Which arm.
        work: Which workload.
        urls: Variables that say where the collector and the HTTP service are.
        core: Where to pin the process.

    Raises:
        BenchError: It failed; the message has its last words.
    """
    items = work.items if arm.most_items is None else min(work.items, arm.most_items)
    pinned = "-" if core is None or arm.distributed else str(core)
    words = [arm.name, work.name, str(items), pinned]
    python = sys.executable if arm.peer is None else environment(arm.peer)
    sample: Sample = run_module("bench.worker", words, f"{arm.name} on {work.name}", urls, python)
    return sample


def measure(
    arms: Sequence[Arm],
    workloads: Iterable[Workload],
    rounds: int,
    say: Say,
    run: Callable[..., Sample] = run_once,
    *,
    forgive: bool = False,
) -> dict[str, Any]:
    """Measure every arm on every workload.

    Args:
        arms: In the order in which they take turns.
        workloads: What they run.
        rounds: How often.
        say: Told of the progress.
        run: Runs one arm once.
        forgive: Whether an arm that fails is left out of that workload, with the reason, instead of ending the bench.

    Returns:
        What is written as JSON: the machine, and for each workload and arm all samples.

    Raises:
        BenchError: An arm failed.
    """
    core, machine = last_core(), about()
    missing = {arm.name: arm.missing for arm in arms if arm.missing}
    present = [arm for arm in arms if not arm.missing]
    for peer in dict.fromkeys(arm.peer for arm in present if arm.peer is not None):
        environment(peer, say)
    works = []
    with collector(not_on=core) as url:
        for work in workloads:
            out: dict[str, str] = {}
            samples: dict[str, list[Sample]] = {arm.name: [] for arm in present}
            with ExitStack() as services:
                urls = {"BENCH_COLLECTOR": url}
                if work.kind == "http":
                    urls["BENCH_HTTP"] = services.enter_context(http_service(work.seconds, not_on=core))
                for number in range(rounds):
                    say(f"{work.title}: round {number + 1} of {rounds}")
                    for arm in present:
                        if arm.name in out:
                            continue
                        try:
                            samples[arm.name].append(run(arm, work, urls, core))
                        except BenchError as exc:
                            if not forgive:
                                raise
                            say(str(exc))
                            out[arm.name] = str(exc)
                            del samples[arm.name]
            works.append(
                {
                    "name": work.name,
                    "title": work.title,
                    "items": work.items,
                    "concurrency": work.concurrency,
                    "ideal_s": work.ideal_s,
                    "out": out,
                    "rounds": rounds,
                    "commit": machine["commit"],
                    "measured_at": now(),
                    "samples": samples,
                }
            )
    return {"machine": machine, "rounds": rounds, "missing": missing, "workloads": works}


def per_item_us(work: Mapping[str, Any], sample: Mapping[str, float]) -> float:
    """The overhead of one run, in microseconds an item.

    Args:
        work: One of `measure`'s workloads.
        sample: One run of an arm, which may have had fewer items.
    """
    items, ideal_s = _of(work, sample)
    return (sample["wall_s"] - ideal_s) / items * 1e6


def _of(work: Mapping[str, Any], sample: Mapping[str, float]) -> tuple[float, float]:
    """How many items a run had, and their ideal in seconds: an arm may have been given fewer."""
    return sample.get("items", float(work["items"])), sample.get("ideal_s", float(work["ideal_s"]))


def ratios(work: Mapping[str, Any], over: str, under: str) -> list[float]:
    """How many times the overhead an item of one arm that of another was, by round; empty where either did not run.

    Each is divided by the machine's pace meanwhile, where that was found of both.

    Args:
        work: One of `measure`'s workloads.
        over: The one arm.
        under: The other.
    """
    above, below = (work["samples"].get(name, ()) for name in (over, under))
    return [
        per_item_us(work, one) / per_item_us(work, other) / _pace_ratio(one, other)
        for one, other in zip(above, below, strict=False)
    ]


def _pace_ratio(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    if "pace_us" not in one or "pace_us" not in other:
        return 1.0
    return one["pace_us"] / other["pace_us"]


def figures(work: Mapping[str, Any], baseline: str) -> dict[str, dict[str, list[float]]]:
    """What the samples of one workload come to, round by round.

    Args:
        work: One of `measure`'s workloads.
        baseline: The arm to which ratios are taken.

    Returns:
        For each arm: `overhead_us` an item; `to_baseline`, the ratio of its overhead to the baseline's in the same
        round, each at the machine's pace meanwhile where that was found; `to_floor`, that of its wall time an item to
        the floor's in the same round; `of_ideal`, the ideal's share of its wall time; and `delivered`, the share of its
        spans that came. Empty where there are no figures.
    """
    samples: Mapping[str, list[Sample]] = work["samples"]

    def each_s(sample: Sample) -> float:
        return sample["wall_s"] / _of(work, sample)[0]

    floor_s = [each_s(sample) for sample in samples.get("floor", ())]
    return {
        name: {
            "overhead_us": [per_item_us(work, sample) for sample in its],
            "to_baseline": ratios(work, name, baseline),
            "to_floor": [each_s(sample) / other for sample, other in zip(its, floor_s, strict=False)],
            "of_ideal": [ideal / sample["wall_s"] for sample in its if (ideal := _of(work, sample)[1])],
            "delivered": [sample["delivered"] / _of(work, sample)[0] for sample in its if "delivered" in sample],
        }
        for name, its in samples.items()
    }
