"""The regression gate: what an item costs, as a ratio to the reference package in the same run, beside the record.

What is compared is processor time, which waiting for a busy core does not lengthen, and of each arm its best round,
which was disturbed least. How far such ratios still differ from run to run is measured when they are recorded.
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
_REPEATS: Final = 4
_LEAST_MARGIN: Final = 0.25  # a machine that is busy with other things has ratios up to a fifth above a quiet one's
_SAFETY: Final = 2.0  # the margin is this often the largest distance that was seen

Say = Callable[[str], None]
Best = dict[str, float]


def _rounds(best: Best, rounds: int, say: Say, run: Callable[..., Sample]) -> Best:
    """The best processor time of each arm, those that it had before included."""
    arms: Sequence[Arm] = [arm(name) for name in (_REFERENCE, *WATCHED)]
    core, work = last_core(), workload("noop").of(_ITEMS)
    better = dict(best)
    with collector(not_on=core) as url:
        for number in range(rounds):
            say(f"gate: round {number + 1} of {rounds}")
            for each in arms:
                cpu_s = run(each, work, {"BENCH_COLLECTOR": url}, core)["cpu_s"]
                better[each.name] = min(cpu_s, better.get(each.name, cpu_s))
    return better


def _ratios(best: Best) -> dict[str, float]:
    return {name: best[name] / best[_REFERENCE] for name in WATCHED}


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
        repeats.append(_ratios(_rounds({}, _ROUNDS, say, run)))
    told = {}
    for name in WATCHED:
        seen = [ratios[name] for ratios in repeats]
        told[name] = {"ratio": median(seen), "margin": margin_of(seen), "seen": seen}
    recorded = {"machine": about(), "items": _ITEMS, "rounds": _ROUNDS, "of": _REFERENCE, "arms": told}
    RECORD.write_text(json.dumps(recorded, indent=1) + "\n")
    return recorded


def check(recorded: Mapping[str, Any], say: Say, run: Callable[..., Sample] = run_once) -> list[str]:
    """Compare this code with what is recorded; what seems too slow is given as many rounds again.

    Args:
        recorded: What `record` wrote.
        say: Told of the progress and of every ratio.
        run: Runs one arm once.

    Returns:
        What is too slow, in words; empty where nothing is.
    """
    best = _rounds({}, _ROUNDS, say, run)
    slow = _compare(recorded, _ratios(best), lambda _: None)
    if slow:
        say("gate: slower than recorded; once more, to be sure")
        best = _rounds(best, _ROUNDS, say, run)
    return _compare(recorded, _ratios(best), say)


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
