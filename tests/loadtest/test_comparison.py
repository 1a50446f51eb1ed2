"""A run beside an earlier one."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from flowrt.loadtest.comparison import Baseline, Verdict, compare
from flowrt.loadtest.measurement import Interval, Latencies, Step
from flowrt.loadtest.output import about, as_json, conclusions, heads, row, verdict_lines
from flowrt.loadtest.plan import LatencyBudget, Plan
from flowrt.loadtest.search import Run


def made(rate: float, latency_s: float, *, failed: int = 0, noise: float = 0.02, seed: int = 0) -> Run:
    """A run of one setting with two passes."""
    chance = random.Random(seed)  # noqa: S311  # to be the same every time is the point
    run = Run(Plan(concurrencies=(10,)))
    for _ in range(2):
        passed = Latencies()
        for _ in range(1_000):
            passed.add(latency_s * chance.uniform(0.8, 1.2))
        slices = [rate * chance.uniform(1 - noise, 1 + noise) for _ in range(5)]
        step = Step(
            10, ok=1_000, failed=failed, slices=slices, means=[sum(slices) / 5], lengths=[4.5], by_pass=[passed]
        )
        step.latencies.join(passed)
        run.add(step)
    return run


def of(run: Run, **changes: Any) -> dict[str, Any]:
    return about(run, "jobs:node", "in.jsonl", "loop") | changes


def written(run: Run) -> Any:
    return json.loads(json.dumps(as_json(run, of(run)), allow_nan=False))


def compared(run: Run, before: Run, **changes: Any) -> Verdict:
    return compare(run, Baseline.of_json(written(before)), of(run, **changes))


def test_the_same_again_is_no_change() -> None:
    signs = [compared(made(100, 0.05, seed=seed), made(100, 0.05, seed=seed + 100)).sign for seed in range(20)]
    assert signs.count("same") >= 19


def test_less_throughput_beyond_the_noise_is_worse_and_more_is_better() -> None:
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


def test_a_change_that_a_quiet_machine_shows_is_within_the_noise_of_a_loud_one() -> None:
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


def test_a_setting_that_fell_over_is_worse_and_its_latencies_are_not_compared() -> None:
    now = made(100, 0.001, failed=300)
    now.steps[10].outcome = "failing"
    verdict = compared(now, made(100, 0.05))
    assert verdict.sign == "worse"
    assert [(change.what, change.sign) for change in verdict.changes] == [("outcome", "worse"), ("failures", "worse")]
    lines = list(verdict_lines(verdict))
    assert lines[1] == "  worse at 10: outcome 'measured to its end' before, 'stopped: too many items failed' now"
    back = compared(made(100, 0.05), now)
    assert back.sign == "better"


def test_any_percentile_of_the_baseline_can_be_compared() -> None:
    run = made(100, 0.08, seed=1)
    run.plan = Plan(concurrencies=(10,), latency_budget=LatencyBudget(1.0, 99.5))
    verdict = compared(run, made(100, 0.05))
    assert ("latency", "worse") in [(change.what, change.sign) for change in verdict.changes]
    assert "p99.5" in "\n".join(verdict_lines(verdict))


def test_what_makes_the_runs_differ_otherwise_is_told() -> None:
    before = made(100, 0.05)
    other = made(50, 0.05)
    other.steps[20] = replace(other.steps[10], setting=20)
    before.steps[20] = replace(before.steps[10], setting=20)
    del other.steps[20]
    failing = made(100, 0.05, failed=500)
    assert compared(made(100, 0.05), made(100, 0.05)).notes == ()
    assert compared(other, before, node="jobs:other", item_timeout=0.5).notes == (
        "the baseline's node was jobs:node, and now it is jobs:other",
        "the baseline's item timeout was none, and now it is 0.5",
        "the baseline has what this run has not: 20",
    )
    assert compared(failing, before).notes[-1] == "the best setting was 10, and now it is none"


def test_runs_that_cannot_be_compared_are_refused() -> None:
    run, before = made(100, 0.05), written(made(100, 0.05))
    other = {**before, "steps": [{**before["steps"][0], "setting": 11}]}
    with pytest.raises(ValueError, match="no setting in common with this run: it has 11"):
        compare(run, Baseline.of_json(other), of(run))
    with pytest.raises(ValueError, match="a loop that was open, and this one is closed"):
        compare(run, Baseline.of_json({**before, "mode": "open"}), of(run))


def without(name: str) -> Any:
    told = written(made(100, 0.05))
    del told["steps"][0][name]
    return told


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([], "it is not what --json writes"),
        ({"steps": 3}, "it is not what --json writes"),
        ({"steps": []}, "it has no 'plan'"),
        (without("throughput"), "it has no 'throughput'"),
        (written(made(100, 0.05)) | {"best": "x"}, "it is damaged: ValueError"),
        ({**without("latencies"), "steps": [{**without("latencies")["steps"][0], "latencies": "x"}]}, "it is damaged"),
    ],
)
def test_a_damaged_baseline_is_refused_with_what_is_wrong(told: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Baseline.of_json(told)


def test_a_step_that_was_stopped_says_nothing_of_its_noise() -> None:
    step = Step(10, ok=50, means=[100.0], lengths=[0.5], outcome="failing")
    assert step.throughput == Interval(100.0, 0.0, math.inf)
    assert not step.throughput.known
    assert Interval.of_json(json.loads(json.dumps(step.throughput.as_json()))) == step.throughput
    run = Run(Plan(concurrencies=(10,)))
    run.add(step)
    assert row(run, step)[2] == "-"


def test_passes_count_by_their_length() -> None:
    step = Step(10, ok=50, means=[100.0, 10.0], lengths=[4.0, 1.0], slices=[100.0] * 5)
    assert step.throughput.value == pytest.approx(82)


def test_intervals_differ_where_they_do_not_overlap() -> None:
    assert Interval(1, 0.9, 1.1).beyond(Interval(2, 1.5, 2.5))
    assert not Interval(1, 0.9, 1.6).beyond(Interval(2, 1.5, 2.5))


def test_latencies_can_be_written_and_read_back() -> None:
    first = Latencies()
    for ms in range(1, 1_001):
        first.add(ms / 1_000)
    again = Latencies(first.encode())
    assert again.count == 1_000
    assert again.at(99) == pytest.approx(0.99, rel=0.002)
    assert again.interval(50).low == pytest.approx(0.469, rel=0.01)
    assert Latencies().interval(50) == Interval(0.0, 0.0, 0.0)


def test_the_table_and_the_words_say_what_is_best() -> None:
    run = made(100, 0.05)
    (step,) = run.steps.values()
    assert heads(run) == ["at once", "items/s", "±", "p50", "p95", "p99", "max", "failed", ""]
    assert row(run, step)[0] == "10"
    assert row(run, step)[-2:] == ["0.0%", "best"]
    assert next(iter(conclusions(run))).startswith("best: 10 at once gives ")
    failing = made(100, 0.05, failed=500)
    assert next(iter(conclusions(failing))) == "no setting stayed within the budget (at most 1.00% failed)"
    assert row(failing, *failing.steps.values())[-1] == "over the budget"
