"""Comparison of a load test with an earlier one."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from flowrt.loadtest.comparison import Baseline, Verdict, compare
from flowrt.loadtest.measurement import Interval, Latencies, Measurement
from flowrt.loadtest.output import about, as_json, conclusions, header, row, verdict_lines
from flowrt.loadtest.plan import LatencyBudget, Plan
from flowrt.loadtest.run import Run


def made(rate: float, latency_s: float, *, failed: int = 0, noise: float = 0.02, seed: int = 0) -> Run:
    """A run of one setting with two passes."""
    chance = random.Random(seed)  # noqa: S311  # to be the same every time is the point
    run = Run(Plan(concurrencies=(10,)))
    for _ in range(2):
        passed = Latencies()
        for _ in range(1_000):
            passed.add(latency_s * chance.uniform(0.8, 1.2))
        slices = [rate * chance.uniform(1 - noise, 1 + noise) for _ in range(5)]
        measured = Measurement(10, ok=1_000, failed=failed, slices=slices)
        measured.pass_rates, measured.pass_lengths_s = [sum(slices) / 5], [4.5]
        measured.latencies_by_pass = [passed]
        measured.latencies.merge(passed)
        run.add(measured)
    return run


def of(run: Run, **changes: Any) -> dict[str, Any]:
    return about(run, "jobs:node", "in.jsonl", "loop") | changes


def written(run: Run) -> Any:
    return json.loads(json.dumps(as_json(run, of(run)), allow_nan=False))


def compared(run: Run, before: Run, **changes: Any) -> Verdict:
    return compare(run, Baseline.of_json(written(before)), of(run, **changes))


def test_same_node_again_is_no_change() -> None:
    signs = [compared(made(100, 0.05, seed=seed), made(100, 0.05, seed=seed + 100)).sign for seed in range(20)]
    assert signs.count("same") >= 19


def test_less_throughput_is_worse_and_more_is_better() -> None:
    before = made(100, 0.05)
    worse = compared(made(85, 0.05, seed=1), before)
    assert worse.sign == "worse"
    assert [(change.what, change.sign) for change in worse.changes] == [
        ("throughput", "worse"),
        ("latency", "same"),
        ("failures", "same"),
    ]
    lines = list(verdict_lines(worse))
    assert lines[0] == "verdict: worse than the baseline"
    assert lines[1].startswith("  worse at 10: throughput ")
    assert compared(made(120, 0.05, seed=1), before).sign == "better"


def test_noise_of_a_loud_machine_hides_a_small_change() -> None:
    def signs(noise: float) -> list[str]:
        before = [made(100, 0.05, noise=noise, seed=seed) for seed in range(20)]
        return [compared(made(90, 0.05, noise=noise, seed=seed + 50), before[seed]).sign for seed in range(20)]

    assert signs(0.02).count("worse") >= 19
    assert signs(0.5).count("same") >= 16


def test_higher_latency_and_more_failures_are_worse() -> None:
    before = made(100, 0.05)
    assert compared(made(100, 0.08, seed=1), before).sign == "worse"
    assert compared(made(100, 0.05, failed=30, seed=1), before).sign == "worse"
    assert compared(made(100, 0.03, seed=1), before).sign == "better"


def test_stopped_setting_is_worse_and_its_latencies_do_not_count() -> None:
    now = made(100, 0.001, failed=300)
    now.measurements[10].outcome = "failing"
    verdict = compared(now, made(100, 0.05))
    assert verdict.sign == "worse"
    assert [(change.what, change.sign) for change in verdict.changes] == [("outcome", "worse"), ("failures", "worse")]
    lines = list(verdict_lines(verdict))
    assert lines[1] == "  worse at 10: outcome 'complete' before, 'stopped: too many items failed' now"
    back = compared(made(100, 0.05), now)
    assert back.sign == "better"


def test_any_percentile_of_the_baseline_can_be_compared() -> None:
    run = made(100, 0.08, seed=1)
    run.plan = Plan(concurrencies=(10,), latency_budget=LatencyBudget(1.0, 99.5))
    verdict = compared(run, made(100, 0.05))
    assert ("latency", "worse") in [(change.what, change.sign) for change in verdict.changes]
    assert "p99.5" in "\n".join(verdict_lines(verdict))


def test_other_differences_between_the_runs_are_noted() -> None:
    before = made(100, 0.05)
    other = made(50, 0.05)
    other.measurements[20] = replace(other.measurements[10], setting=20)
    before.measurements[20] = replace(before.measurements[10], setting=20)
    del other.measurements[20]
    failing = made(100, 0.05, failed=500)
    assert compared(made(100, 0.05), made(100, 0.05)).notes == ()
    assert compared(other, before, node="jobs:other", item_timeout=0.5).notes == (
        "the baseline's node was jobs:node, and now it is jobs:other",
        "the baseline's item timeout was none, and now it is 0.5",
        "only the baseline has these settings: 20",
    )
    assert compared(failing, before).notes[-1] == "the best setting was 10, and now it is none"


def test_runs_that_cannot_be_compared_are_refused() -> None:
    run, before = made(100, 0.05), written(made(100, 0.05))
    other = {**before, "steps": [{**before["steps"][0], "setting": 11}]}
    with pytest.raises(ValueError, match="no setting in common with this run: it has 11"):
        compare(run, Baseline.of_json(other), of(run))
    with pytest.raises(ValueError, match="it measured an open loop, and this run measures a closed loop"):
        compare(run, Baseline.of_json({**before, "mode": "open"}), of(run))


def without(name: str) -> Any:
    data = written(made(100, 0.05))
    del data["steps"][0][name]
    return data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([], "it is not what --json writes"),
        ({"steps": 3}, "it is not what --json writes"),
        ({"steps": []}, "it has no 'plan'"),
        (without("throughput"), "it has no 'throughput'"),
        (written(made(100, 0.05)) | {"best": "x"}, "it is damaged: ValueError"),
        ({**without("latencies"), "steps": [{**without("latencies")["steps"][0], "latencies": "x"}]}, "it is damaged"),
    ],
)
def test_damaged_baseline_is_refused_with_the_reason(data: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Baseline.of_json(data)


def test_noise_of_a_stopped_measurement_is_unknown() -> None:
    measured = Measurement(10, ok=50, pass_rates=[100.0], pass_lengths_s=[0.5], outcome="failing")
    assert measured.throughput == Interval(100.0, 0.0, math.inf)
    assert not measured.throughput.known
    assert Interval.of_json(json.loads(json.dumps(measured.throughput.as_json()))) == measured.throughput
    run = Run(Plan(concurrencies=(10,)))
    run.add(measured)
    assert row(run, measured)[2] == "-"


def test_passes_count_by_their_length() -> None:
    measured = Measurement(10, ok=50, pass_rates=[100.0, 10.0], pass_lengths_s=[4.0, 1.0], slices=[100.0] * 5)
    assert measured.throughput.value == pytest.approx(82)


def test_intervals_differ_if_they_do_not_overlap() -> None:
    assert Interval(1, 0.9, 1.1).beyond(Interval(2, 1.5, 2.5))
    assert not Interval(1, 0.9, 1.6).beyond(Interval(2, 1.5, 2.5))


def test_latencies_survive_encoding() -> None:
    first = Latencies()
    for ms in range(1, 1_001):
        first.add(ms / 1_000)
    again = Latencies(first.encode())
    assert again.count == 1_000
    assert again.at(99) == pytest.approx(0.99, rel=0.002)
    assert again.interval(50).low == pytest.approx(0.469, rel=0.01)
    assert Latencies().interval(50) == Interval(0.0, 0.0, 0.0)


def test_table_and_conclusions_name_the_best_setting() -> None:
    run = made(100, 0.05)
    (measured,) = run.measurements.values()
    assert header(run) == ["at once", "items/s", "±", "p50", "p95", "p99", "max", "failed", ""]
    assert row(run, measured)[0] == "10"
    assert row(run, measured)[-2:] == ["0.0%", "best"]
    assert next(iter(conclusions(run))).startswith("best: 10 at once gives ")
    failing = made(100, 0.05, failed=500)
    assert next(iter(conclusions(failing))) == "no setting stayed within the budget (at most 1.00% failed)"
    assert row(failing, *failing.measurements.values())[-1] == "over the budget"
