"""Rounds of runs: every arm once in each round, in a fresh process, and ratios within the round."""

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

from bench.arms import PEERS, Arm
from bench.collector import collector
from bench.environments import environment
from bench.machine import about, last_core, now
from bench.service import http_service
from bench.workloads import Workload

__all__ = ["BenchError", "cpu_us", "figures", "measure", "per_item_us", "ratios", "run_module", "run_once"]

ROOT = Path(__file__).parents[1]
_LIMIT_S = 600
_FAR = frozenset(arm.name for arm in PEERS if arm.distributed)

Sample = dict[str, float]
Say = Callable[[str], None]
Cost = Callable[[Mapping[str, Any], Mapping[str, float]], float]


class BenchError(Exception):
    """A run failed or gave a wrong result, so that it has no figure."""


def run_module(
    module: str,
    words: Iterable[str],
    what: str,
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Any:
    """Run a module of the bench in a fresh process, and read the last line that it prints as JSON.

    Args:
        module: Name of the module.
        words: Command-line arguments.
        what: Description for messages.
        environment: Additional environment variables.
        python: Interpreter.

    Raises:
        BenchError: It failed or did not end; the message has the last line of its stderr.
    """
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": str(ROOT)}
    command = [python, "-m", module, *words]
    with (
        TemporaryFile("w+") as out,
        TemporaryFile("w+") as errors,
    ):  # a pipe would stay open as long as any process that it leaves behind
        child = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=out, stderr=errors, start_new_session=True)
        try:
            child.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{what} did not end within {_LIMIT_S} s") from None
        finally:
            with suppress(ProcessLookupError):  # the process, and servers and workers that a peer left running
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        out.seek(0)
        errors.seek(0)
        if child.returncode:
            last = errors.read().strip().splitlines()[-1:] or ["nothing"]
            raise BenchError(f"{what} ended with exit code {child.returncode}: {last[0]}")
        return json.loads(out.read().splitlines()[-1])


def run_once(arm: Arm, work: Workload, urls: Mapping[str, str], core: int | None) -> Sample:
    """Run one arm on one workload, in a process of its own.

    Args:
        arm: The arm.
        work: The workload.
        urls: Environment variables with the URLs of the collector and the HTTP service.
        core: Core to pin the process to; None for no pinning.

    Raises:
        BenchError: The run failed; the message has the last line of its stderr.
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
        arms: Arms in the order of their turns.
        workloads: Workloads in their order.
        rounds: Runs of each arm.
        say: Reports the progress.
        run: Runs one arm once.
        forgive: True to leave a failing arm out of that workload, with the reason, instead of ending the bench.

    Returns:
        The JSON: the machine, and for each workload and arm all samples.

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
            with ExitStack() as services:
                urls = {"BENCH_COLLECTOR": url}
                if work.kind == "http":
                    urls["BENCH_HTTP"] = services.enter_context(http_service(work.seconds, not_on=core))
                samples, out = _take_rounds(work, present, urls, core, rounds, say, run, forgive=forgive)
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


def _take_rounds(
    work: Workload,
    arms: Sequence[Arm],
    urls: dict[str, str],
    core: int | None,
    rounds: int,
    say: Say,
    run: Callable[..., Sample],
    *,
    forgive: bool,
) -> tuple[dict[str, list[Sample]], dict[str, str]]:
    """Run every arm once in each round.

    Returns:
        The samples of each arm, and the reason for each arm that failed and is left out.
    """
    samples: dict[str, list[Sample]] = {arm.name: [] for arm in arms}
    out: dict[str, str] = {}
    for number in range(rounds):
        say(f"{work.title}: round {number + 1} of {rounds}")
        for arm in arms:
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
    return samples, out


def per_item_us(work: Mapping[str, Any], sample: Mapping[str, float]) -> float:
    """Wall-time overhead of one run, in microseconds an item.

    Args:
        work: A workload in the JSON of `measure`.
        sample: One run of an arm, which may have had fewer items.
    """
    items, ideal_s = _size(work, sample)
    return (sample["wall_s"] - ideal_s) / items * 1e6


def cpu_us(work: Mapping[str, Any], sample: Mapping[str, float]) -> float:
    """CPU of one run's process with all its threads, in microseconds an item.

    Args:
        work: A workload in the JSON of `measure`.
        sample: One run of an arm that works in its own process.
    """
    return sample["cpu_s"] / _size(work, sample)[0] * 1e6


def _size(work: Mapping[str, Any], sample: Mapping[str, float]) -> tuple[float, float]:
    """Items of a run and its ideal time in seconds; slow arms get fewer items than the workload has."""
    return sample.get("items", float(work["items"])), sample.get("ideal_s", float(work["ideal_s"]))


def ratios(work: Mapping[str, Any], over: str, under: str, cost: Cost = per_item_us) -> list[float]:
    """Ratio of two arms' cost an item, by round; empty if either did not run.

    Times are in units of the machine's pace, if that was measured in both runs.

    Args:
        work: A workload in the JSON of `measure`.
        over: Arm above the line.
        under: Arm below the line.
        cost: `per_item_us` for wall-time overhead, `cpu_us` for CPU.
    """
    above, below = (work["samples"].get(name, ()) for name in (over, under))
    return [
        cost(work, one) / cost(work, other) / _pace_ratio(one, other) for one, other in zip(above, below, strict=False)
    ]


def _pace_ratio(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    if "pace_us" not in one or "pace_us" not in other:
        return 1.0
    return one["pace_us"] / other["pace_us"]


def figures(work: Mapping[str, Any], baseline: str) -> dict[str, dict[str, list[float]]]:
    """Figures of one workload's samples, round by round.

    Args:
        work: A workload in the JSON of `measure`.
        baseline: Arm below the line of ratios.

    Returns:
        For each arm: `overhead_us`, wall-time overhead an item; `cpu_us`, CPU an item of the process with all its
        threads; `to_baseline` and `cpu_to_baseline`, their ratios to the baseline's in the same round, in units of the
        machine's pace if that was measured; `to_floor`, ratio of the wall time an item to the floor's in that round;
        `of_ideal`, share of the ideal in the wall time; `delivered`, share of the spans that arrived. Empty if there
        are no figures, and for the CPU of arms with processes of their own.
    """
    samples: Mapping[str, list[Sample]] = work["samples"]

    def each_s(sample: Sample) -> float:
        return sample["wall_s"] / _size(work, sample)[0]

    # the CPU of an arm with processes of its own is not in its sample
    counted = {name for name, its in samples.items() if name not in _FAR and all("cpu_s" in each for each in its)}
    floor_s = [each_s(sample) for sample in samples.get("floor", ())]
    return {
        name: {
            "overhead_us": [per_item_us(work, sample) for sample in its],
            "cpu_us": [cpu_us(work, sample) for sample in its] if name in counted else [],
            "to_baseline": ratios(work, name, baseline),
            "cpu_to_baseline": ratios(work, name, baseline, cpu_us) if {name, baseline} <= counted else [],
            "to_floor": [each_s(sample) / other for sample, other in zip(its, floor_s, strict=False)],
            "of_ideal": [ideal / sample["wall_s"] for sample in its if (ideal := _size(work, sample)[1])],
            "delivered": [sample["delivered"] / _size(work, sample)[0] for sample in its if "delivered" in sample],
        }
        for name, its in samples.items()
    }
