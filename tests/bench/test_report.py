"""Tables and targets."""

from __future__ import annotations

import json
from typing import Any

from bench import report
from bench.arms import ARMS, PEERS
from bench.workloads import WORKLOADS

Measured = dict[str, Any]


def test_table_has_every_arm_and_the_reason_for_a_missing_one(measured: Measured) -> None:
    lines = list(report.lines(measured))
    (missing,) = [line for line in lines if "`gather` + `Semaphore`" in line]
    assert missing.split("  ")[-1] == "gather is not installed"
    assert " - " in missing
    (bare,) = [line for line in lines if line.startswith("  flowrt, telemetry off")]
    assert bare.split()[-10:] == ["10.00", "10.00", "40.00", "0.50x", "15.00", "0.30x", "1.00x", "50.0%", "-", "1,000"]
    (delivered,) = [line for line in lines if line.startswith("  flowrt, everything on")]
    assert delivered.endswith(" 99.9%  1,000")  # a span lost in one round is lost for good
    assert "CPython 3.11, 2 cores of a processor, 3 rounds, a system; commit abc; today" in lines
    assert lines[-1] == "uvloop 1.0; garbage collector enabled"


def test_targets_are_met_missed_or_not_measured(measured: Measured) -> None:
    lines = list(report.lines(measured))
    assert "met     flowrt-bare on 1ms, wall time of the floor's: 1 (target <= 1.1; rounds 1 to 1.25)" in lines
    assert "-       flowrt-metrics on 1ms, wall time of the floor's: not measured (target <= 1.1)" in lines
    assert "MISSED  spans of flowrt-delivered that came on 1ms, least share: 0.999 (target >= 1)" in lines


def test_cut_run_is_noted_beside_the_targets(measured: Measured) -> None:
    cut = "a cut run: the targets below are those of the full number of items"
    assert cut in list(report.lines(measured))
    measured["workloads"][0]["items"] = 50_000
    assert cut not in list(report.lines(measured))


def test_every_target_of_the_workloads_is_reported(measured: Measured) -> None:
    (work,) = measured["workloads"]
    walls = {"floor": 1.0, "nadoo": 1.0, "flowrt-bare": 0.26, "flowrt-metrics": 0.3, "flowrt-delivered": 0.5}
    samples = {name: [{"wall_s": wall}] for name, wall in walls.items()} | {"by-hand": [{"wall_s": 6.0}]}
    measured["workloads"] = [
        {**work, "name": "noop", "ideal_s": 0.0, "samples": samples},
        {**work, "name": "50ms", "ideal_s": 0.25, "samples": samples},
    ]
    shown = [str(target) for target in report.targets(measured)]
    assert shown[:4] == [
        "MISSED  flowrt-bare on noop, of nadoo-flow-core bare: 0.26 (target <= 0.25)",
        "met     flowrt-metrics on noop, of nadoo-flow-core bare: 0.3 (target <= 0.3)",
        "met     flowrt-delivered on noop, of nadoo-flow-core bare: 0.5 (target <= 0.6)",
        "met     by-hand over flowrt-delivered on noop: 12 (target >= 10)",
    ]
    assert shown[4] == "MISSED  flowrt-bare on 50ms, of the ideal: 0.962 (target >= 0.98)"
    assert [target.what for target in report.targets(measured)][5:] == [
        "flowrt-metrics on 50ms, of the ideal",
        "flowrt-delivered on 50ms, of the ideal",
        "spans of flowrt-delivered that came on noop, least share",
        "spans of flowrt-delivered that came on 50ms, least share",
    ]


def test_memory_is_reported_in_all_and_per_item(machine: dict[str, Any]) -> None:
    shown = {"items": 1_000_000, "growth_mib": 20.0, "samples_mib": [19.0, 20.0, 22.0]}
    missing = {"nadoo": "nadoo_flow is not installed"}
    lines = list(
        report.lines({"machine": machine, "rounds": 3, "missing": missing, "memory": {"flowrt-stream": shown}})
    )
    (stream,) = [line for line in lines if "items made lazily" in line]
    assert stream.split()[-5:] == ["1,000,000", "20.0", "19.0", "22.0", "21.0"]
    (nadoo,) = [line for line in lines if "nadoo_flow" in line]
    assert nadoo.endswith("-  nadoo_flow is not installed")
    assert "MISSED  flowrt-stream, MB of growth over 1,000,000 items: 21 (target <= 20; rounds 19.9 to 23.1)" in lines


def test_checked_in_results_have_every_arm_and_enough_rounds() -> None:
    measured = json.loads((report.RESULTS / "overhead.json").read_text())
    assert measured["rounds"] >= 5
    assert measured["missing"] == {}
    assert {work["name"] for work in measured["workloads"]} == {each.name for each in WORKLOADS if each.core}
    for work in measured["workloads"]:
        assert set(work["samples"]) == {each.name for each in ARMS}
        assert {len(samples) for samples in work["samples"].values()} == {measured["rounds"]}


def test_flowrt_stands_beside_the_best_peer_of_its_kind(measured: Measured) -> None:
    (work,) = measured["workloads"]
    rivals = {"task-group": 0.04, "aiometer-run": 0.08, "task-group-by-hand": 0.9, "floor-by-hand": 0.02}
    samples = work["samples"] | {name: [{"wall_s": wall}] for name, wall in rivals.items()}
    measured["workloads"] = [{**work, "samples": samples}]
    ahead = [str(target) for target in report.targets(measured) if "best peer" in target.what]
    assert ahead == [
        "met     flowrt-bare on 1ms, of the best peer bare (task-group): 0.333 (target <= 1)",
        "met     flowrt-delivered on 1ms, of the best peer with telemetry (task-group-by-hand): 0.0225 (target <= 1)",
    ]
    assert len({arm.name for arm in PEERS}) == len(PEERS)
