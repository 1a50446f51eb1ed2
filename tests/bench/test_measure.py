"""Rounds of runs, and the arithmetic on their samples."""

from __future__ import annotations

from typing import Any

import pytest

from bench import measure as measuring
from bench.arms import Arm, arm
from bench.measure import BenchError, figures, measure, ratios, run_module, run_once
from bench.workloads import Workload, workload


def test_ratios_are_taken_within_a_round(work: dict[str, Any]) -> None:
    assert ratios(work, "flowrt-bare", "nadoo") == pytest.approx([1 / 4, 4 / 8, 1 / 2])
    by_arm = figures(work, "nadoo")
    assert by_arm["flowrt-bare"]["to_baseline"] == pytest.approx([1 / 4, 4 / 8, 1 / 2])
    assert by_arm["flowrt-bare"]["to_floor"] == pytest.approx([1, 5 / 4, 1])
    assert by_arm["flowrt-bare"]["overhead_us"] == pytest.approx([10, 40, 10])
    assert by_arm["flowrt-bare"]["of_ideal"] == pytest.approx([1 / 2, 1 / 5, 1 / 2])
    assert by_arm["flowrt-bare"]["cpu_us"] == pytest.approx([15, 15, 15])
    assert by_arm["flowrt-bare"]["cpu_to_baseline"] == pytest.approx([0.3, 0.3, 0.3])
    assert by_arm["floor"]["cpu_us"] == []
    assert by_arm["flowrt-bare"]["delivered"] == []
    assert by_arm["nadoo"]["to_baseline"] == [1, 1, 1]
    assert by_arm["flowrt-delivered"]["delivered"] == [1, 0.999, 1]


def test_missing_baseline_floor_or_ideal_gives_no_ratio(work: dict[str, Any]) -> None:
    del work["samples"]["nadoo"], work["samples"]["floor"]
    by_arm = figures({**work, "ideal_s": 0.0}, "nadoo")["flowrt-bare"]
    assert by_arm.pop("overhead_us") == pytest.approx([20, 50, 20])
    assert by_arm.pop("cpu_us") == pytest.approx([15, 15, 15])
    assert by_arm == {"to_baseline": [], "cpu_to_baseline": [], "to_floor": [], "of_ideal": [], "delivered": []}


def test_ideal_counts_whole_rounds_of_sleeping() -> None:
    assert Workload("w", "w", 250, 100, seconds=0.01).ideal_s == pytest.approx(0.03)
    assert Workload("w", "w", 250, 100, "noop").ideal_s == 0
    assert Workload("w", "w", 250, 100, "flaky", 0.01, failing=0.5).ideal_s == pytest.approx(0.04)
    spread = Workload("w", "w", 250, 100, "lognormal", 0.01, shape=1.0)
    assert spread.ideal_s == max(*spread.times_s(), sum(spread.times_s()) / 100)
    assert workload("1ms").cut(10).items == 5_000
    assert workload("10ms").cut(1_000).items == 1_000


def test_rounds_are_interleaved_without_missing_peers() -> None:
    ran: list[str] = []

    def run(which: Arm, work: Workload, urls: dict[str, str], core: int | None) -> dict[str, float]:
        ran.append(f"{which.name} {work.name}")
        assert urls["BENCH_COLLECTOR"].startswith("http://127.0.0.1:")
        return {"wall_s": 1.0}

    absent = Arm("absent", "absent", arm("floor").run, needs=("json", "no_such.module"))
    arms = [arm("floor"), absent, arm("gather")]
    measured = measure(arms, [workload("noop"), workload("1ms")], 2, lambda _: None, run)
    assert ran == [*["floor noop", "gather noop"] * 2, *["floor 1ms", "gather 1ms"] * 2]
    assert measured["missing"] == {"absent": "no_such.module is not installed"}
    assert [work["out"] for work in measured["workloads"]] == [{}, {}]
    assert set(measured["machine"]) >= {"processor", "python", "commit", "packages", "garbage_collector"}


def test_failing_run_ends_the_bench_with_its_last_line() -> None:
    unknown = Arm("no-such-arm", "", arm("floor").run)
    with pytest.raises(BenchError, match="no-such-arm on noop ended with exit code 1: KeyError: 'no-such-arm'"):
        run_once(unknown, workload("noop"), {}, None)


def test_failing_peer_is_left_out_with_the_reason() -> None:
    def run(which: Arm, work: Workload, urls: dict[str, str], core: int | None) -> dict[str, float]:
        if which.name == "gather":
            raise BenchError("gather on noop ended with exit code 1: KeyError")
        return {"wall_s": 1.0}

    measured = measure([arm("floor"), arm("gather")], [workload("noop")], 2, lambda _: None, run, forgive=True)
    (work,) = measured["workloads"]
    assert work["out"] == {"gather": "gather on noop ended with exit code 1: KeyError"}
    assert set(work["samples"]) == {"floor"}


def test_cpu_of_an_arm_with_processes_of_its_own_is_unknown(work: dict[str, Any]) -> None:
    work["samples"]["ray"] = [{"wall_s": 0.02, "cpu_s": 0.01}] * 3
    assert figures(work, "nadoo")["ray"]["cpu_us"] == []
    assert figures(work, "nadoo")["ray"]["cpu_to_baseline"] == []


def test_runs_of_fewer_items_compare_by_the_item(work: dict[str, Any]) -> None:
    work["samples"]["slow"] = [{"wall_s": 0.02, "items": 100, "ideal_s": 0.01}] * 3
    assert figures(work, "nadoo")["slow"]["overhead_us"] == pytest.approx([100, 100, 100])
    assert ratios(work, "slow", "nadoo") == pytest.approx([100 / 40, 100 / 80, 100 / 20])
    assert figures(work, "nadoo")["slow"]["to_floor"] == pytest.approx([10, 5, 10])


def test_run_that_does_not_end_is_an_error_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_LIMIT_S", 0.01)
    with pytest.raises(BenchError, match=r"the stream did not end within 0\.01 s"):
        run_module("bench.memory", ["floor", "100000"], "the stream")
