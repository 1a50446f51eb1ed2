"""The gate on what an item costs."""

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
    """A run that costs what it is told, round by round; the last goes on."""

    def run(arm: Arm, *_: Any) -> dict[str, float]:
        its = costs[arm.name]
        return {"cpu_s": its.pop(0) if len(its) > 1 else its[0], "pace_us": 1.0}

    return run


def quiet(_: str) -> None:
    """Say nothing."""


STEADY = {"nadoo": [1.0], "flowrt-bare": [0.25], "flowrt-metrics": [0.3], "flowrt-delivered": [0.6]}
RECORDED = {"of": "nadoo", "arms": {name: {"ratio": its[0], "margin": 0.25} for name, its in STEADY.items()}}


def copied(**changes: list[float]) -> Costs:
    return {name: list(changes.get(name.replace("-", "_"), its)) for name, its in STEADY.items()}


def test_the_same_cost_passes_and_a_little_more_does() -> None:
    assert gate.check(RECORDED, quiet, costing(copied())) == []
    assert gate.check(RECORDED, quiet, costing(copied(flowrt_bare=[0.28]))) == []


def test_more_than_the_margin_fails_and_names_the_arm_the_figure_and_the_record() -> None:
    (slow,) = gate.check(RECORDED, quiet, costing(copied(flowrt_bare=[0.32])))
    assert slow == "flowrt-bare: 0.320 of nadoo's processor time an item; recorded 0.250 + 25% = 0.312"


def test_rounds_that_were_disturbed_do_not_count() -> None:
    assert gate.check(RECORDED, quiet, costing(copied(flowrt_bare=[0.9, 0.25, 0.9, 0.25, 0.25]))) == []


def test_what_seems_slow_is_measured_again_but_not_for_ever() -> None:
    said: list[str] = []
    assert gate.check(RECORDED, said.append, costing(copied(flowrt_bare=[0.9] * 5 + [0.25]))) == []
    assert said.count("gate: slower than recorded; more rounds, to be sure") == 2
    said.clear()
    assert gate.check(RECORDED, said.append, costing(copied(flowrt_bare=[0.9])))
    assert said.count("gate: slower than recorded; more rounds, to be sure") == 3


def test_a_machine_that_is_slow_for_one_arm_does_not_make_that_slow() -> None:
    def run(arm: Arm, *_: Any) -> dict[str, float]:
        times = 2.0 if arm.name == "flowrt-bare" else 1.0
        return {"cpu_s": STEADY[arm.name][0] * times, "pace_us": times}

    assert gate.check(RECORDED, quiet, run) == []


def test_the_margin_is_twice_the_noise_that_was_seen() -> None:
    assert gate.margin_of([1.0, 1.0, 1.0]) == 0.25
    assert gate.margin_of([0.8, 1.0, 1.1]) == pytest.approx(0.4)


def test_what_is_recorded_says_how_it_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "RECORD", tmp_path / "gate.json")
    gate.record(quiet, costing(copied()))
    recorded = json.loads((tmp_path / "gate.json").read_text())
    assert recorded["arms"]["flowrt-bare"] == {"ratio": 0.25, "margin": 0.25, "seen": [0.25] * 4}
    assert gate.check(recorded, quiet, costing(copied())) == []


def test_the_checked_in_record_has_every_arm() -> None:
    recorded = json.loads(gate.RECORD.read_text())
    assert set(recorded["arms"]) == set(gate.WATCHED)
    assert all(its["margin"] == gate.margin_of(its["seen"]) for its in recorded["arms"].values())


def test_a_gate_that_fails_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "check", lambda *_: ["flowrt-bare: 0.9"])
    assert command.main(["gate"]) == 1
    assert "slower than recorded by more than the margin: flowrt-bare: 0.9" in capsys.readouterr().err
    monkeypatch.setattr(command, "check", lambda *_: [])
    assert command.main(["gate"]) == 0
    monkeypatch.setattr(command, "RECORD", Path("/no/such/gate.json"))
    assert command.main(["gate"]) == 1
