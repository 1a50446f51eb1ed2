"""Forecasts, each compared with a real run in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowrt import AdaptiveLimit, NodeResult, RateLimit, Rejected, RetryPolicy
from flowrt.policies import Hedge
from flowrt.whatif import Plan, forecast, sweep
from flowrt.whatif.contention import _mean_inflight
from flowrt.whatif.figures import knee_of
from flowrt.whatif.forecast import recorded_figures, recorded_plan

from .conftest import Record, Service

EVEN = {"wait": lambda state: 1.0}


def test_replay_under_the_recorded_settings_equals_the_recording(record: Record) -> None:
    attempts = record(Service(), 10, inputs=range(200))
    found = forecast(attempts, recorded_plan(attempts))
    for figures in (found.replayed, found.predicted):
        assert figures.makespan == pytest.approx(found.recorded.makespan, rel=1e-6)
        assert (figures.calls, figures.ok) == (200, 200)
        assert figures.p95 == pytest.approx(found.recorded.p95, rel=1e-6)


@pytest.mark.parametrize("concurrency", [1, 5, 40, 500])
def test_forecast_of_another_concurrency_equals_a_real_run(record: Record, concurrency: int) -> None:
    attempts = record(Service(), 10, inputs=range(200))
    found = forecast(attempts, recorded_plan(attempts).changed(max_concurrency=concurrency)).predicted
    real = recorded_figures(record(Service(), concurrency, inputs=range(200)))
    assert found.makespan == pytest.approx(real.makespan, rel=1e-6)
    assert found.throughput == pytest.approx(real.throughput, rel=1e-6)


def test_forecast_of_a_rate_limit_equals_a_real_run(record: Record) -> None:
    attempts = record(Service(), 10, inputs=range(100))
    found = forecast(attempts, recorded_plan(attempts).changed(rates=[RateLimit(3)])).predicted
    real = recorded_figures(record(Service(), 10, rate_limit=RateLimit(3), inputs=range(100)))
    assert found.makespan == pytest.approx(real.makespan, rel=1e-3)
    assert found.throttled == pytest.approx(real.throttled, rel=1e-2)


def test_lifted_rate_limit_throttles_no_item(record: Record) -> None:
    attempts = record(Service(), 10, rate_limit=RateLimit(3), inputs=range(100))
    found = forecast(attempts, recorded_plan(attempts).changed(rates=[])).predicted
    real = recorded_figures(record(Service(), 10, inputs=range(100)))
    assert found.makespan == pytest.approx(real.makespan, rel=1e-3)
    assert found.throttled == 0


def test_time_limit_cuts_the_stragglers(record: Record) -> None:
    attempts = record(Service(straggler=30.0), 10, inputs=range(100))
    found = forecast(attempts, recorded_plan(attempts).changed(item_timeout=5.0)).predicted
    real = recorded_figures(record(Service(straggler=30.0), 10, item_timeout=5.0, inputs=range(100)))
    assert (found.timed_out, found.ok) == (real.timed_out, real.ok) == (5, 95)
    assert found.makespan == pytest.approx(real.makespan, rel=1e-2)


def test_lifted_time_limit_notes_that_cut_attempts_are_drawn(record: Record) -> None:
    attempts = record(Service(straggler=30.0), 10, item_timeout=5.0, inputs=range(100))
    found = forecast(attempts, recorded_plan(attempts).changed(item_timeout=None))
    assert any("5 attempts were cut short" in note for note in found.notes)
    assert any("have no recorded end" in note for note in found.notes)


def test_recorded_retries_are_replayed_unchanged(record: Record) -> None:
    policy = RetryPolicy(4, budget=None, **EVEN)
    attempts = record(Service(lambda x: x % 3), 10, retry=policy, inputs=range(100))
    found = forecast(attempts, recorded_plan(attempts).changed(max_concurrency=20))
    assert found.predicted.calls == found.recorded.calls == 100 + sum(x % 3 for x in range(100))
    assert (found.predicted.ok, found.predicted.retried) == (100, found.recorded.retried)


def test_fewer_retries_leave_more_failures(record: Record) -> None:
    policy = RetryPolicy(4, budget=None, **EVEN)
    attempts = record(Service(lambda x: x % 3), 10, retry=policy, inputs=range(99))
    plan = recorded_plan(attempts)
    assert forecast(attempts, plan.changed(retries=1)).predicted.failed == 33
    assert forecast(attempts, plan.changed(retries=0)).predicted.failed == 66


def test_unrecorded_retries_are_drawn_and_noted(record: Record) -> None:
    attempts = record(Service(lambda x: int(x % 4 == 0)), 10, inputs=range(400))
    found = forecast(attempts, recorded_plan(attempts).changed(retries=3))
    assert found.predicted.failed < 10
    assert any("too few retries to show how they end" in note for note in found.notes)


def test_failures_that_the_recorded_policy_gave_up_are_not_retried(record: Record) -> None:
    policy = RetryPolicy(2, on=KeyError, budget=None, **EVEN)
    attempts = record(Service(lambda x: int(x % 4 == 0)), 10, retry=policy, inputs=range(100))
    assert forecast(attempts, recorded_plan(attempts).changed(retries=5)).predicted.failed == 25


def test_failures_returned_by_the_node_are_retried_as_recorded(record: Record) -> None:
    service = Service(lambda x: int(x % 4 == 0))

    async def node(x: int) -> NodeResult:
        try:
            return NodeResult(True, await service(x))
        except ConnectionError:
            return NodeResult(False, error="busy")

    attempts = record(node, 10, retry=RetryPolicy(3, budget=None, **EVEN), inputs=range(100))
    found = forecast(attempts, recorded_plan(attempts))
    assert found.recorded.calls == 125
    for figures in (found.replayed, found.predicted):
        assert (figures.calls, figures.ok, figures.failed) == (125, 100, 0)
    assert forecast(attempts, recorded_plan(attempts).changed(retries=0)).predicted.failed == 25


def test_items_without_an_attempt_are_not_replayed_but_noted(record: Record) -> None:
    attempts = record(Service(), 10, inputs=[*range(20), *[Rejected("no JSON")] * 5])
    assert attempts.detail.attempts == 20
    found = forecast(attempts, recorded_plan(attempts).changed(retries=2))
    assert (found.predicted.calls, found.predicted.ok, found.predicted.failed) == (20, 20, 0)
    assert found.predicted.makespan == pytest.approx(found.recorded.makespan, rel=1e-6)
    assert any("5 items failed without an attempt" in note for note in found.notes)
    assert not any("were cut short" in note for note in found.notes)


def test_resumed_items_count_neither_as_recorded_nor_as_predicted(record: Record, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    record(Service(), 10, journal=journal, inputs=range(100))
    attempts = record(Service(), 10, journal=journal, inputs=range(150))
    assert attempts.detail.counts["resumed"] == 100
    found = forecast(attempts, recorded_plan(attempts))
    assert found.recorded.ok == found.predicted.ok == 50
    assert found.recorded.throughput == pytest.approx(found.predicted.throughput, rel=1e-3)


def test_hedge_cuts_the_tail_and_costs_calls(record: Record) -> None:
    attempts = record(Service(straggler=30.0), 10, inputs=range(400))
    found = forecast(attempts, recorded_plan(attempts).changed(hedge=Hedge("p90")))
    assert found.predicted.makespan < 0.8 * found.recorded.makespan
    assert found.predicted.calls > 400
    assert found.predicted.ok == 400


def test_recording_with_hedges_can_be_replayed_without(record: Record) -> None:
    attempts = record(Service(straggler=30.0), 10, hedge=Hedge(5.0), inputs=range(200))
    plan = recorded_plan(attempts)
    assert plan.hedge == Hedge(5.0)
    found = forecast(attempts, plan.changed(hedge=None))
    assert found.predicted.calls == 200
    assert found.recorded.calls > 200


def test_slow_source_stays_slow_at_any_concurrency(record: Record) -> None:
    async def slow() -> AsyncIterator[int]:
        for x in range(50):
            await asyncio.sleep(2.0)
            yield x

    attempts = record(Service(), 10, inputs=slow())
    found = forecast(attempts, recorded_plan(attempts).changed(max_concurrency=100))
    assert found.predicted.makespan == pytest.approx(found.recorded.makespan, rel=0.02)
    assert any("the input" in note for note in found.notes)


def test_changes_of_the_limit_are_replayed(record: Record) -> None:
    attempts = record(Service(), AdaptiveLimit(2, 40), inputs=range(600))
    assert len(attempts.detail.limits) > 1
    found = forecast(attempts, recorded_plan(attempts))
    assert found.replayed.makespan == pytest.approx(found.recorded.makespan, rel=0.05)


def test_changing_limit_stays_as_recorded_and_is_noted(
    record: Record,
) -> None:
    attempts = record(Service(), AdaptiveLimit(2, 40), inputs=range(600))
    plan = recorded_plan(attempts)
    found = forecast(attempts, plan.changed(item_timeout=1000.0))
    assert found.predicted == found.replayed
    assert any("the replay repeats its changes" in note for note in found.notes)
    assert not any("the replay repeats its changes" in note for note in forecast(attempts, plan).notes)
    curve = sweep(attempts, plan, "retries", [1])
    assert curve.points[0].figures == found.replayed
    assert any("the replay repeats its changes" in note for note in curve.notes)


def test_highest_recorded_limit_can_be_replayed_as_a_fixed_one(record: Record) -> None:
    attempts = record(Service(), AdaptiveLimit(2, 40), inputs=range(600))
    plan = recorded_plan(attempts)
    found = forecast(attempts, plan.changed(max_concurrency=plan.max_concurrency))
    real = recorded_figures(record(Service(), plan.max_concurrency, inputs=range(600)))
    assert found.predicted.makespan == pytest.approx(real.makespan, rel=1e-6)
    assert found.predicted.makespan < 0.9 * found.replayed.makespan


def test_contention_shows_if_the_recording_varies_concurrency(record: Record) -> None:
    running = 0

    async def contended(x: int) -> int:
        nonlocal running
        running += 1
        if x in (600, 1200):
            processor.set_max_concurrency(x // 60)
        await asyncio.sleep(0.1 * (1 + 0.05 * (running - 1)))
        running -= 1
        return x

    class Ramp:
        async def __call__(self, x: int) -> int:
            return await contended(x)

    import flowrt.batch.processor

    made: list[Any] = []
    before = flowrt.batch.BatchProcessor.__init__

    def remember(self: Any, *arguments: Any, **settings: Any) -> None:
        made.append(self)
        before(self, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flowrt.batch.BatchProcessor, "__init__", remember)

        class Late:
            def set_max_concurrency(self, limit: int) -> None:
                made[-1].set_max_concurrency(limit)

        processor = Late()
        attempts = record(Ramp(), 5, inputs=range(1800))
    assert attempts.contention.known == "fitted"
    assert attempts.contention.factor(1, 21) == pytest.approx(2.0, rel=0.1)
    assert any("Universal Scalability Law" in note for note in attempts.notes)
    found = forecast(attempts, recorded_plan(attempts).changed(max_concurrency=40)).predicted
    ideal = 1800 / 40 * 0.1 * (1 + 0.05 * 39)
    assert found.makespan == pytest.approx(ideal, rel=0.1)


def test_recording_at_one_concurrency_notes_unknown_contention(record: Record) -> None:
    attempts = record(Service(), 10, inputs=range(300))
    assert attempts.contention.known == "unknown"
    assert any("assumes latency independent of load" in note for note in attempts.notes)
    assert attempts.contention.factor(5, 50) == 1.0


def test_settings_that_cannot_be_replayed_are_noted() -> None:
    limit = {"rate": 10, "per": 1.0, "burst": 10, "cost": None}
    settings = {"breaker": "CircuitBreaker(...)", "rate_limits": [limit], "continue_on_error": False}
    plan = Plan.recorded(settings, [[0, 7]])
    assert plan.max_concurrency == 7
    assert len(plan.notes) == 3


def test_sweep_is_a_forecast_for_each_value(record: Record) -> None:
    attempts = record(Service(), 10, inputs=range(200))
    plan = recorded_plan(attempts)
    seen: list[int] = []
    curve = sweep(attempts, plan, "max_concurrency", [40, 10, 20, 10], on_value=seen.append)
    assert seen == [point.value for point in curve.points] == [10, 20, 40]
    assert curve.points[1].figures == forecast(attempts, plan.changed(max_concurrency=20)).predicted


@pytest.mark.parametrize(
    ("curve", "knee"),
    [
        ([(5, 5.0), (10, 10.0), (20, 20.0), (40, 20.5), (80, 20.6)], 20),
        ([(1, 1.0), (2, 2.0), (3, 3.0)], None),
        ([(10, 8.0), (20, 8.05), (40, 8.0)], 10),
        ([(1, 1.0), (2, 2.0)], None),
        ([(5, 5.0), (10, 10.0), (20, 8.0), (40, 4.0)], 10),
    ],
)
def test_knee_is_the_value_beyond_which_more_gains_little(curve: list[tuple[int, float]], knee: int | None) -> None:
    assert knee_of(curve) == knee


def test_attempts_that_start_and_end_together_ran_at_once_all_the_time() -> None:
    start = np.repeat(np.arange(5, dtype=np.int64) * 1_000, 10)
    end = start + 1_000 - np.tile(np.arange(10), 5)  # one after the other, at the very end
    assert _mean_inflight(start, end, start, end) == pytest.approx(np.full(50, 10.0), rel=0.01)
    starts, ends = np.array([0, 50]), np.array([100, 100])
    assert _mean_inflight(starts, ends, starts, ends) == pytest.approx([1.5, 2.0])
