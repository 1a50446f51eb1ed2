"""Suite of worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.processes import PROCESSES, measure_processes
from bench.report import lines


def quiet(_: str) -> None:
    """Report nothing."""


def text(measured: dict[str, Any]) -> str:
    return "\n".join(lines(measured))


def test_one_round_runs_on_real_processes() -> None:
    measured = measure_processes(PROCESSES[:1], 1, 100, quiet)
    shown = text(measured)
    assert "flowrt, speedup of two workers over one" in shown
    (figures,) = measured["processes"]["runs"]
    assert figures["flowrt 1 ms x1"] >= 1_000
    assert figures["naps"] >= 1
    assert min(figures["lost ms"], figures["hung ms"], figures["orphans ms"]) > 0
    assert "workers outlive a killed driver by, ms" in shown


def test_targets_compare_within_a_round() -> None:
    def run(names: Sequence[str], cut: int) -> dict[str, float]:
        figures = {"driver cpu c=100": 9.0, "loop cpu c=100": 4.0, "round trip": 400.0, "naps": 1.05}
        for label, one in (("1 ms", 1_000.0), ("100 µs", 100.0)):
            figures |= {f"flowrt {label} x1": one, f"flowrt {label} x2": one / 1.6, f"flowrt {label}": one / 1.6}
        figures |= {"lost ms": 44.0, "orphans ms": 1_200.0}
        return {**figures, "joblib 1 ms": 700.0, "joblib 100 µs": 50.0}

    shown = text(measure_processes(PROCESSES, 1, 1, quiet, run))
    assert "met     CPU of the driver, no-op in processes, 100 at once, µs: 9 (target <= 10)" in shown
    assert "met     the same above the loop executor, µs: 5 (target <= 6)" in shown
    assert "MISSED  round trip to a worker process, µs: 400 (target <= 300)" in shown
    assert "met     a killed worker is noticed within, ms: 44 (target <= 100)" in shown
    assert "MISSED  workers outlive a killed driver by, ms: " in shown
    assert "MISSED  speedup of two processes at 1 ms: 1.6 (target >= 1.8)" in shown
    assert "met     speedup of two processes at 100 µs: 1.6 (target >= 1.5)" in shown
    assert "MISSED  wall time of joblib at 100 µs: 1.25 (target <= 1.1)" in shown
