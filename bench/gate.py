"""Regression gate: the cost of an item, of a small batch and of waiting batches, beside the record.

An item's cost is CPU in units of the machine's pace, which waiting for a busy core does not lengthen: the median of an
arm's rounds as a ratio to the reference package's. A batch of three compares with `gather` in turn with it in one
process. How far such figures differ between runs of the same code is measured when they are recorded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from bench.arms import Arm, arm
from bench.collector import collector
from bench.machine import about, last_core
from bench.measure import Sample, run_once
from bench.small import SMALL, run_small
from bench.waiting import WAITING, run_waiting
from bench.workloads import workload

__all__ = ["FIGURES", "RECORD", "WATCHED", "Figure", "check", "margin_of", "record"]

RECORD: Final = Path(__file__).parent / "gate.json"
WATCHED: Final = ("flowrt-bare", "flowrt-metrics", "flowrt-delivered")
_REFERENCE: Final = "nadoo"
_ITEMS: Final = 30_000
_ROUNDS: Final = 5
_MAX_ROUNDS: Final = 20  # rounds are added while an arm seems too slow
_REPEATS: Final = 4
_MIN_MARGIN: Final = 0.25  # machines differ by more than the rounds of one machine
_SAFETY: Final = 2.0  # margin, in largest distances from the median
_TRIES: Final = 3  # of a figure that seems too high: disturbances only raise it
_BATCHES, _TURNS, _SECONDS = 200, 4, 1.5

Say = Callable[[str], None]
Costs = dict[str, list[float]]


class Figure(NamedTuple):
    """One further figure of the gate.

    Attributes:
        name: Name in messages and in the record.
        measure: Measures it once, given the collector's URL.
        floor: Bound that is never too high: below it, noise is larger than the figure.
    """

    name: str
    measure: Callable[[str], float]
    floor: float = 0.0


def _batch_of_three(name: str) -> Callable[[str], float]:
    small = {each.name: each for each in SMALL}[name]

    def measure(url: str) -> float:
        run = run_small(small, 3, 1, _BATCHES, url, _TURNS)
        ratio: float = run[name]["cpu_us"] / run["gather"]["cpu_us"]
        return ratio

    return measure


def _waiting(batches: int) -> Callable[[str], float]:
    default = {each.name: each for each in WAITING}["default"]
    return lambda url: run_waiting(default, batches, _SECONDS, url)["share"]


FIGURES: Final = (
    *(
        Figure(f"batch of three, {name}, CPU of gather", _batch_of_three(name))
        for name in ("bare", "default", "delivered")
    ),
    Figure("300 waiting batches, share of a core", _waiting(300), floor=0.02),
)


# -- items -------------------------------------------------------------------------------------------------------------


def _rounds(costs: Costs, rounds: int, say: Say, run: Callable[..., Sample]) -> None:
    """Run every arm once in each round, and add its cost."""
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


def margin_of(values: Sequence[float]) -> float:
    """Margin above the recorded value, as a share of it.

    Args:
        values: Figures of repeated runs of the same code.
    """
    middle = median(values)
    return max(_MIN_MARGIN, _SAFETY * max(abs(value / middle - 1) for value in values))


# -- record and check --------------------------------------------------------------------------------------------------


def record(say: Say, run: Callable[..., Sample] = run_once, figures: Sequence[Figure] = FIGURES) -> dict[str, Any]:
    """Measure everything several times over, and write the record that later commits are compared with.

    Args:
        say: Reports the progress.
        run: Runs one arm once.
        figures: Figures beside the arms.

    Returns:
        The record: for each arm and figure its value, the margin, and the values of the repeated runs.
    """
    repeats = []
    for number in range(_REPEATS):
        say(f"gate: run {number + 1} of {_REPEATS}")
        costs: Costs = {}
        _rounds(costs, _ROUNDS, say, run)
        repeats.append(_ratios(costs))
    arms = {}
    for name in WATCHED:
        seen = [ratios[name] for ratios in repeats]
        arms[name] = {"ratio": median(seen), "margin": margin_of(seen), "seen": seen}
    others: dict[str, Any] = {}
    recorded = {
        "machine": about(),
        "items": _ITEMS,
        "rounds": _ROUNDS,
        "of": _REFERENCE,
        "arms": arms,
        "figures": others,
    }
    with collector(not_on=last_core()) as url:
        for figure in figures:
            say(f"gate: {figure.name}")
            seen = [figure.measure(url) for _ in range(_REPEATS)]
            others[figure.name] = {"value": median(seen), "margin": margin_of(seen), "seen": seen}
    RECORD.write_text(json.dumps(recorded, indent=1) + "\n")
    return recorded


def check(
    recorded: Mapping[str, Any],
    say: Say,
    run: Callable[..., Sample] = run_once,
    figures: Sequence[Figure] = FIGURES,
) -> list[str]:
    """Compare this code with the record; what seems too slow is measured again.

    Args:
        recorded: The record.
        say: Reports the progress and every figure.
        run: Runs one arm once.
        figures: Figures beside the arms; those that are not in the record are skipped.

    Returns:
        One line for each figure that is too high.
    """
    costs: Costs = {}
    while True:
        _rounds(costs, _ROUNDS, say, run)
        slow = _compare(recorded, _ratios(costs), lambda _: None)
        if not slow or len(costs[_REFERENCE]) >= _MAX_ROUNDS:
            return _compare(recorded, _ratios(costs), say) + _check_figures(recorded.get("figures", {}), say, figures)
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


def _check_figures(recorded: Mapping[str, Any], say: Say, figures: Sequence[Figure]) -> list[str]:
    slow = []
    known = [figure for figure in figures if figure.name in recorded]
    for figure in figures:
        if figure not in known:
            say(f"gate: {figure.name}: not recorded (python -m bench gate --record)")
    if not known:
        return []
    with collector(not_on=last_core()) as url:
        for figure in known:
            its = recorded[figure.name]
            bound = max(figure.floor, its["value"] * (1 + its["margin"]))
            value = figure.measure(url)
            for _ in range(_TRIES - 1):
                if value <= bound:
                    break
                value = min(value, figure.measure(url))
            text = f"{figure.name}: {value:.3f}; recorded {its['value']:.3f} + {its['margin']:.0%}, at most {bound:.3f}"
            say(f"gate: {text}")
            if value > bound:
                slow.append(text)
    return slow
