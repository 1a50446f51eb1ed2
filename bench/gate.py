"""The regression gate: what an item costs, as a ratio to the reference package in the same run, beside the record.

What is compared is processor time, which waiting for a busy core does not lengthen, in units of the machine's pace
meanwhile, and of each arm the median of its rounds. How far such ratios still differ from run to run is measured when
they are recorded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.arms import Arm, arm
from bench.collector import collector
from bench.machine import about, last_core
from bench.measure import Sample, run_once
from bench.workloads import workload

__all__ = ["RECORD", "WATCHED", "check", "margin_of", "record"]

RECORD: Final = Path(__file__).parent / "gate.json"
WATCHED: Final = ("flowrt-bare", "flowrt-metrics", "flowrt-delivered")
_REFERENCE: Final = "nadoo"
_ITEMS: Final = 30_000
_ROUNDS: Final = 5
_MOST_ROUNDS: Final = 20  # with as many more each time as there seems to be something too slow
_REPEATS: Final = 4
_LEAST_MARGIN: Final = 0.25  # machines differ by more than the rounds of one do
_SAFETY: Final = 2.0  # the margin is this often the largest distance that was seen

Say = Callable[[str], None]
Costs = dict[str, list[float]]


def _rounds(costs: Costs, rounds: int, say: Say, run: Callable[..., Sample]) -> None:
    """Let every arm run so often, and add what it cost."""
    arms: Sequence[Arm] = [arm(name) for name in (_REFERENCE, *WATCHED)]
    core, work = last_core(), workload("noop").of(_ITEMS)
    with collector(not_on=core) as url:
        for number in range(rounds):
            say(f"gate: round {number + 1} of {rounds}")
            for each in arms:
                sample = run(each, work, {"BENCH_COLLECTOR": url}, core)
                costs.setdefault(each.name, []).append(sample["cpu_s"] / sample["pace_us"])


def _ratios(costs: Costs) -> dict[str, float]:
    return {name: median(costs[name]) / median(costs[_REFERENCE]) for name in WATCHED}


def margin_of(ratios: Sequence[float]) -> float:
    """How much above what is recorded a ratio may be, as a share of it.

    Args:
        ratios: Those of repeated runs of the same code.
    """
    middle = median(ratios)
    return max(_LEAST_MARGIN, _SAFETY * max(abs(ratio / middle - 1) for ratio in ratios))


def record(say: Say, run: Callable[..., Sample] = run_once) -> dict[str, Any]:
    """Run the gate several times over and write what it gave as what later commits are compared with.

    Args:
        say: Told of the progress.
        run: Runs one arm once.

    Returns:
        What is written: for each arm its ratio, the margin, and the ratios of the repeated runs that it comes from.
    """
    repeats = []
    for number in range(_REPEATS):
        say(f"gate: run {number + 1} of {_REPEATS}")
        costs: Costs = {}
        _rounds(costs, _ROUNDS, say, run)
        repeats.append(_ratios(costs))
    told = {}
    for name in WATCHED:
        seen = [ratios[name] for ratios in repeats]
        told[name] = {"ratio": median(seen), "margin": margin_of(seen), "seen": seen}
    recorded = {"machine": about(), "items": _ITEMS, "rounds": _ROUNDS, "of": _REFERENCE, "arms": told}
    RECORD.write_text(json.dumps(recorded, indent=1) + "\n")
    return recorded


def check(recorded: Mapping[str, Any], say: Say, run: Callable[..., Sample] = run_once) -> list[str]:
    """Compare this code with what is recorded; while something seems too slow, more rounds are run.

    Args:
        recorded: What `record` wrote.
        say: Told of the progress and of every ratio.
        run: Runs one arm once.

    Returns:
        What is too slow, in words; empty where nothing is.
    """
    costs: Costs = {}
    while True:
        _rounds(costs, _ROUNDS, say, run)
        slow = _compare(recorded, _ratios(costs), lambda _: None)
        if not slow or len(costs[_REFERENCE]) >= _MOST_ROUNDS:
            return _compare(recorded, _ratios(costs), say)
        say("gate: slower than recorded; more rounds, to be sure")


def _compare(recorded: Mapping[str, Any], ratios: Mapping[str, float], say: Say) -> list[str]:
    slow = []
    for name, ratio in ratios.items():
        its = recorded["arms"][name]
        bound = its["ratio"] * (1 + its["margin"])
        text = (
            f"{name}: {ratio:.3f} of {recorded['of']}'s processor time an item; "
            f"recorded {its['ratio']:.3f} + {its['margin']:.0%} = {bound:.3f}"
        )
        say(f"gate: {text}")
        if ratio > bound:
            slow.append(text)
    return slow
