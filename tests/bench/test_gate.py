"""Regression gate on the cost of items, small batches and waiting batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import gate
from bench.arms import Arm

Costs = dict[str, list[float]]


def costing(costs: Costs) -> Callable[..., dict[str, float]]:
    """Return a function that runs an arm at the given costs, one for each round; the last cost repeats."""

    def run(arm: Arm, *_: Any) -> dict[str, float]:
        its = costs[arm.name]
        return {"cpu_s": its.pop(0) if len(its) > 1 else its[0], "pace_us": 1.0}

    return run


def quiet(_: str) -> None:
    """Report nothing."""


STEADY = {"nadoo": [1.0], "flowrt-bare": [0.25], "flowrt-metrics": [0.3], "flowrt-delivered": [0.6]}
RECORDED = {"of": "nadoo", "arms": {name: {"ratio": its[0], "margin": 0.25} for name, its in STEADY.items()}}


def copied(**changes: list[float]) -> Costs:
    return {name: list(changes.get(name.replace("-", "_"), its)) for name, its in STEADY.items()}


def test_same_cost_and_a_little_more_pass() -> None:
    assert gate.check(RECORDED, quiet, costing(copied())) == []
    assert gate.check(RECORDED, quiet, costing(copied(flowrt_bare=[0.28]))) == []


def test_cost_beyond_the_margin_fails_and_names_figure_and_record() -> None:
    (slow,) = gate.check(RECORDED, quiet, costing(copied(flowrt_bare=[0.32])))
    assert slow == "flowrt-bare: 0.320 of nadoo's processor time an item; recorded 0.250 + 25% = 0.312"


def test_disturbed_rounds_do_not_count() -> None:
    assert gate.check(RECORDED, quiet, costing(copied(flowrt_bare=[0.9, 0.25, 0.9, 0.25, 0.25]))) == []


def test_slow_arm_is_measured_again_up_to_a_bound() -> None:
    said: list[str] = []
    assert gate.check(RECORDED, said.append, costing(copied(flowrt_bare=[0.9] * 5 + [0.25]))) == []
    assert said.count("gate: slower than recorded; more rounds, to be sure") == 2
    said.clear()
    assert gate.check(RECORDED, said.append, costing(copied(flowrt_bare=[0.9])))
    assert said.count("gate: slower than recorded; more rounds, to be sure") == 3


def test_slow_machine_does_not_make_an_arm_slow() -> None:
    def run(arm: Arm, *_: Any) -> dict[str, float]:
        times = 2.0 if arm.name == "flowrt-bare" else 1.0
        return {"cpu_s": STEADY[arm.name][0] * times, "pace_us": times}

    assert gate.check(RECORDED, quiet, run) == []


def test_margin_is_twice_the_observed_noise() -> None:
    assert gate.margin_of([1.0, 1.0, 1.0]) == 0.25
    assert gate.margin_of([0.8, 1.0, 1.1]) == pytest.approx(0.4)


def test_record_holds_margin_and_repeated_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "RECORD", tmp_path / "gate.json")
    shares = iter([0.001, 0.001, 0.002, 0.001])
    waiting = gate.Figure("waiting", lambda url: next(shares), floor=0.02)
    gate.record(quiet, costing(copied()), [waiting])
    recorded = json.loads((tmp_path / "gate.json").read_text())
    assert recorded["arms"]["flowrt-bare"] == {"ratio": 0.25, "margin": 0.25, "seen": [0.25] * 4}
    assert recorded["figures"]["waiting"]["seen"] == [0.001, 0.001, 0.002, 0.001]
    assert gate.check(recorded, quiet, costing(copied()), []) == []


def checked(values: list[float], *, floor: float = 0.0, name: str = "three") -> tuple[list[str], list[str]]:
    """Return the failures and the reported lines for a figure that is recorded as 4.0 with a margin of 25 %."""
    said: list[str] = []
    recorded = {**RECORDED, "figures": {"three": {"value": 4.0, "margin": 0.25}}}
    measured = iter(values)
    figure = gate.Figure(name, lambda url: next(measured), floor)
    return gate.check(recorded, said.append, costing(copied()), [figure]), said


def test_figure_within_its_margin_passes_at_the_first_try() -> None:
    slow, said = checked([4.9])
    assert slow == []
    assert said[-1] == "gate: three: 4.900; recorded 4.000 + 25%, at most 5.000"


def test_figure_beyond_its_margin_is_tried_again_and_fails() -> None:
    assert checked([9.0, 4.2])[0] == []
    (slow,) = checked([9.0, 6.0, 7.0])[0]
    assert slow == "three: 6.000; recorded 4.000 + 25%, at most 5.000"


def test_figure_below_its_floor_passes_whatever_the_record() -> None:
    assert checked([9.0], floor=10.0)[0] == []


def test_unrecorded_figure_is_reported_and_not_measured() -> None:
    slow, said = checked([], name="other")
    assert slow == []
    assert said[-1] == "gate: other: not recorded (python -m bench gate --record)"


def test_checked_in_record_has_every_arm() -> None:
    recorded = json.loads(gate.RECORD.read_text())
    assert set(recorded["arms"]) == set(gate.WATCHED)
    assert all(its["margin"] == gate.margin_of(its["seen"]) for its in recorded["arms"].values())


def test_failing_gate_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "check", lambda *_: ["flowrt-bare: 0.9"])
    assert command.main(["gate"]) == 1
    assert "slower than the record by more than the margin: flowrt-bare: 0.9" in capsys.readouterr().err
    monkeypatch.setattr(command, "check", lambda *_: [])
    assert command.main(["gate"]) == 0
    monkeypatch.setattr(command, "RECORD", Path("/no/such/gate.json"))
    assert command.main(["gate"]) == 1
