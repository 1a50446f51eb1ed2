"""Suite of actors on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.on_ray import ON_RAY, RayArm, measure_ray
from bench.report import lines


def quiet(_: str) -> None:
    """Report nothing."""


def text(measured: dict[str, Any]) -> str:
    return "\n".join(lines(measured))


def test_targets_compare_within_a_round() -> None:
    arms = [RayArm(arm.name, arm.title, arm.items, ()) for arm in ON_RAY]
    rounds = iter([1.0, 2.0, 1.5])

    def run(names: Sequence[str], cut: int) -> dict[str, float]:
        slow = next(rounds)
        figures = {"loop": 4.0, "c=1000": 10.0, "c=100": 40.0, "calls": 900.0, "data": 60.0, "round trip": 3_000.0}
        figures = {name: slow * value for name, value in figures.items()}
        return figures | {"naps": 1.4, "naps cpu": 20.0, "items a call c=100": 100.0, "items a call naps": 150.0}

    shown = text(measure_ray(arms, 3, 1, quiet, run))
    assert "MISSED  CPU of the driver, no-op in an actor, 1,000 at once, µs: 15 (target <= 12; rounds" in shown
    assert "met     the same with 1,000 at once, of Ray Data: 0.167 (target <= 1; rounds 0.167 to 0.167)" in shown
    assert "met     CPU of a Ray call per item over flowrt, 100 at once: 22.5 (target >= 20" in shown
    assert "MISSED  round trip to an actor, ms: 4.5 (target <= 3.5; rounds 3 to 6)" in shown
    assert "MISSED  10,000 x 50 ms over 2 x 250 in actors, of the ideal: 1.4 (target <= 1.3" in shown


def test_arm_without_its_package_has_the_reason() -> None:
    arms = [RayArm("data", "Ray Data `map`", 100, ("no_such_package",))]
    measured = measure_ray(arms, 1, 1, quiet, lambda names, cut: {})
    assert measured["missing"] == {"data": "no_such_package is not installed"}
    assert measured["ray"]["runs"] == []
