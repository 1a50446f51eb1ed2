"""A run beside an earlier one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from flowrt.loadtest.ladder import Run
from flowrt.loadtest.plan import Plan
from flowrt.loadtest.step import Interval, Latencies, Step
from flowrt.loadtest.told import as_json, conclusions, heads, row, verdict_lines
from flowrt.loadtest.verdict import compare


def made(rate: float, latency_s: float, *, failed: int = 0, noise: float = 0.02, seed: int = 0) -> Run:
    """A run of one setting with two passes."""
    chance = random.Random(seed)  # noqa: S311  # to be the same every time is the point
    run = Run(Plan(concurrencies=(10,)))
    for _ in range(2):
        passed = Latencies()
        for _ in range(1_000):
            passed.add(latency_s * chance.uniform(0.8, 1.2))
        slices = [rate * chance.uniform(1 - noise, 1 + noise) for _ in range(5)]
        step = Step(10, ok=1_000, failed=failed, slices=slices, means=[sum(slices) / 5], by_pass=[passed])
        step.latencies.join(passed)
        run.add(step)
    return run


def written(run: Run) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(json.dumps(as_json(run, "jobs:node", "in.jsonl")))
    return told


def test_the_same_again_is_no_change() -> None:
    signs = [compare(made(100, 0.05, seed=seed), written(made(100, 0.05, seed=seed + 100))).sign for seed in range(20)]
    assert signs.count("same") >= 19


def test_less_throughput_beyond_the_noise_is_worse_and_more_is_better() -> None:
    before = written(made(100, 0.05))
    worse = compare(made(85, 0.05, seed=1), before)
    assert worse.sign == "worse"
    assert [(change.what, change.sign) for change in worse.changes] == [
        ("throughput", "worse"),
        ("latency", "same"),
        ("failures", "same"),
    ]
    assert worse.changes[0].ratio == pytest.approx(0.85, rel=0.03)
    lines = list(verdict_lines(worse))
    assert lines[0] == "verdict: worse than the baseline"
    assert lines[1].startswith("  worse at 10: throughput ")
    assert compare(made(120, 0.05, seed=1), before).sign == "better"


def test_a_change_that_a_quiet_machine_shows_is_within_the_noise_of_a_loud_one() -> None:
    def signs(noise: float) -> list[str]:
        before = [written(made(100, 0.05, noise=noise, seed=seed)) for seed in range(20)]
        return [compare(made(90, 0.05, noise=noise, seed=seed + 50), before[seed]).sign for seed in range(20)]

    assert signs(0.02).count("worse") >= 19
    assert signs(0.5).count("same") >= 16


def test_higher_latency_and_more_failures_are_worse() -> None:
    before = written(made(100, 0.05))
    assert compare(made(100, 0.08, seed=1), before).sign == "worse"
    assert compare(made(100, 0.05, failed=30, seed=1), before).sign == "worse"
    assert compare(made(100, 0.03, seed=1), before).sign == "better"


def test_runs_that_cannot_be_compared_are_refused() -> None:
    before = written(made(100, 0.05))
    with pytest.raises(ValueError, match="no setting in common with this run: it has 11"):
        compare(made(100, 0.05), {**before, "steps": [{**before["steps"][0], "setting": 11}]})
    with pytest.raises(ValueError, match="a loop that was open, and this one is closed"):
        compare(made(100, 0.05), {**before, "mode": "open"})


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
    assert heads(run) == ["at once", "items/s", "±", "p50", "p95", "p99", "failed", ""]
    assert row(run, step)[0] == "10"
    assert row(run, step)[-2:] == ["0.0%", "best"]
    assert next(iter(conclusions(run))).startswith("best: 10 at once gives ")
    failing = made(100, 0.05, failed=500)
    assert next(iter(conclusions(failing))) == "no setting stayed within the budget (at most 1.00% failed)"
    assert row(failing, *failing.steps.values())[-1] == "over the budget"
