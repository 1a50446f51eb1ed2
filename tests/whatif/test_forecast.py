"""Forecasts are what really happens: each is compared to a real rerun in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flowrt import AdaptiveLimit, NodeResult, RateLimit, Rejected, RetryPolicy
from flowrt.policies import Hedge
from flowrt.whatif import Plan, forecast, sweep
from flowrt.whatif.forecast import knee_of, recorded_figures, recorded_plan

from .conftest import Record, Service

EVEN = {"wait": lambda state: 1.0}


def test_a_replay_under_the_recorded_settings_is_the_recorded_run(record: Record) -> None:
    tape = record(Service(), 10, inputs=range(200))
    found = forecast(tape, recorded_plan(tape))
    for figures in (found.replayed, found.predicted):
        assert figures.makespan == pytest.approx(found.recorded.makespan, rel=1e-6)
        assert (figures.calls, figures.ok) == (200, 200)
        assert figures.p95 == pytest.approx(found.recorded.p95, rel=1e-6)


@pytest.mark.parametrize("concurrency", [1, 5, 40, 500])
def test_another_concurrency_takes_as_long_as_it_then_does(record: Record, concurrency: int) -> None:
    tape = record(Service(), 10, inputs=range(200))
    found = forecast(tape, recorded_plan(tape).changed(max_concurrency=concurrency)).predicted
    real = recorded_figures(record(Service(), concurrency, inputs=range(200)))
    assert found.makespan == pytest.approx(real.makespan, rel=1e-6)
    assert found.throughput == pytest.approx(real.throughput, rel=1e-6)


def test_a_rate_limit_holds_the_replay_back_as_it_does_the_batch(record: Record) -> None:
    tape = record(Service(), 10, inputs=range(100))
    found = forecast(tape, recorded_plan(tape).changed(rates=[RateLimit(3)])).predicted
    real = recorded_figures(record(Service(), 10, rate_limit=RateLimit(3), inputs=range(100)))
    assert found.makespan == pytest.approx(real.makespan, rel=1e-3)
    assert found.throttled == pytest.approx(real.throttled, rel=1e-2)


def test_a_rate_limit_that_is_lifted_holds_nothing_back(record: Record) -> None:
    tape = record(Service(), 10, rate_limit=RateLimit(3), inputs=range(100))
    found = forecast(tape, recorded_plan(tape).changed(rates=[])).predicted
    real = recorded_figures(record(Service(), 10, inputs=range(100)))
    assert found.makespan == pytest.approx(real.makespan, rel=1e-3)
    assert found.throttled == 0


def test_a_time_limit_cuts_the_stragglers(record: Record) -> None:
    tape = record(Service(straggler=30.0), 10, inputs=range(100))
    found = forecast(tape, recorded_plan(tape).changed(item_timeout=5.0)).predicted
    real = recorded_figures(record(Service(straggler=30.0), 10, item_timeout=5.0, inputs=range(100)))
    assert (found.timed_out, found.ok) == (real.timed_out, real.ok) == (5, 95)
    assert found.makespan == pytest.approx(real.makespan, rel=1e-2)


def test_a_time_limit_that_is_lifted_says_that_cut_attempts_are_guessed(record: Record) -> None:
    tape = record(Service(straggler=30.0), 10, item_timeout=5.0, inputs=range(100))
    found = forecast(tape, recorded_plan(tape).changed(item_timeout=None))
    assert any("5 attempts were cut short" in note for note in found.notes)
    assert any("recorded as never ending" in note for note in found.notes)


def test_recorded_retries_are_replayed_as_they_went(record: Record) -> None:
    policy = RetryPolicy(4, budget=None, **EVEN)
    tape = record(Service(lambda x: x % 3), 10, retry=policy, inputs=range(100))
    found = forecast(tape, recorded_plan(tape).changed(max_concurrency=20))
    assert found.predicted.calls == found.recorded.calls == 100 + sum(x % 3 for x in range(100))
    assert (found.predicted.ok, found.predicted.retried) == (100, found.recorded.retried)


def test_fewer_retries_leave_failures_and_none_leave_all(record: Record) -> None:
    policy = RetryPolicy(4, budget=None, **EVEN)
    tape = record(Service(lambda x: x % 3), 10, retry=policy, inputs=range(99))
    plan = recorded_plan(tape)
    assert forecast(tape, plan.changed(retries=1)).predicted.failed == 33
    assert forecast(tape, plan.changed(retries=0)).predicted.failed == 66


def test_retries_that_the_recording_does_not_have_are_drawn_and_said_so(record: Record) -> None:
    tape = record(Service(lambda x: int(x % 4 == 0)), 10, inputs=range(400))
    found = forecast(tape, recorded_plan(tape).changed(retries=3))
    assert found.predicted.failed < 10
    assert any("does not show how items fare when they are tried again" in note for note in found.notes)


def test_what_the_recorded_policy_did_not_try_again_is_not(record: Record) -> None:
    policy = RetryPolicy(2, on=KeyError, budget=None, **EVEN)
    tape = record(Service(lambda x: int(x % 4 == 0)), 10, retry=policy, inputs=range(100))
    assert forecast(tape, recorded_plan(tape).changed(retries=5)).predicted.failed == 25


def test_failures_that_the_node_returned_are_tried_again_as_they_were(record: Record) -> None:
    service = Service(lambda x: int(x % 4 == 0))

    async def node(x: int) -> NodeResult:
        try:
            return NodeResult(True, await service(x))
        except ConnectionError:
            return NodeResult(False, error="busy")

    tape = record(node, 10, retry=RetryPolicy(3, budget=None, **EVEN), inputs=range(100))
    found = forecast(tape, recorded_plan(tape))
    assert found.recorded.calls == 125
    for figures in (found.replayed, found.predicted):
        assert (figures.calls, figures.ok, figures.failed) == (125, 100, 0)
    assert forecast(tape, recorded_plan(tape).changed(retries=0)).predicted.failed == 25


def test_what_failed_without_an_attempt_is_not_replayed_and_that_is_said(record: Record) -> None:
    tape = record(Service(), 10, inputs=[*range(20), *[Rejected("no JSON")] * 5])
    assert tape.detail.attempts == 20
    found = forecast(tape, recorded_plan(tape).changed(retries=2))
    assert (found.predicted.calls, found.predicted.ok, found.predicted.failed) == (20, 20, 0)
    assert found.predicted.makespan == pytest.approx(found.recorded.makespan, rel=1e-6)
    assert any("5 items failed without an attempt" in note for note in found.notes)
    assert not any("were cut short" in note for note in found.notes)


def test_what_an_earlier_run_finished_counts_neither_as_recorded_nor_as_predicted(
    record: Record, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    record(Service(), 10, journal=journal, inputs=range(100))
    tape = record(Service(), 10, journal=journal, inputs=range(150))
    assert tape.detail.counts["resumed"] == 100
    found = forecast(tape, recorded_plan(tape))
    assert found.recorded.ok == found.predicted.ok == 50
    assert found.recorded.throughput == pytest.approx(found.predicted.throughput, rel=1e-3)


def test_a_hedge_cuts_the_tail_and_costs_calls(record: Record) -> None:
    tape = record(Service(straggler=30.0), 10, inputs=range(400))
    found = forecast(tape, recorded_plan(tape).changed(hedge=Hedge("p90")))
    assert found.predicted.makespan < 0.8 * found.recorded.makespan
    assert found.predicted.calls > 400
    assert found.predicted.ok == 400


def test_a_recording_with_hedges_can_be_replayed_without(record: Record) -> None:
    tape = record(Service(straggler=30.0), 10, hedge=Hedge(5.0), inputs=range(200))
    plan = recorded_plan(tape)
    assert plan.hedge == Hedge(5.0)
    found = forecast(tape, plan.changed(hedge=None))
    assert found.predicted.calls == 200
    assert found.recorded.calls > 200


def test_a_slow_source_stays_slow_whatever_the_concurrency(record: Record) -> None:
    async def slow() -> AsyncIterator[int]:
        for x in range(50):
            await asyncio.sleep(2.0)
            yield x

    tape = record(Service(), 10, inputs=slow())
    found = forecast(tape, recorded_plan(tape).changed(max_concurrency=100))
    assert found.predicted.makespan == pytest.approx(found.recorded.makespan, rel=0.02)
    assert any("the input" in note for note in found.notes)


def test_a_batch_whose_limit_changed_is_replayed_with_its_changes(record: Record) -> None:
    tape = record(Service(), AdaptiveLimit(2, 40), inputs=range(600))
    assert len(tape.detail.limits) > 1
    found = forecast(tape, recorded_plan(tape))
    assert found.replayed.makespan == pytest.approx(found.recorded.makespan, rel=0.05)


def test_a_limit_that_changed_stays_as_recorded_where_another_setting_is_tried_and_that_is_said(
    record: Record,
) -> None:
    tape = record(Service(), AdaptiveLimit(2, 40), inputs=range(600))
    plan = recorded_plan(tape)
    found = forecast(tape, plan.changed(item_timeout=1000.0))
    assert found.predicted == found.replayed
    assert any("it changes when it changed then" in note for note in found.notes)
    assert not any("it changes when it changed then" in note for note in forecast(tape, plan).notes)
    curve = sweep(tape, plan, "retries", [1])
    assert curve.points[0].figures == found.replayed
    assert any("it changes when it changed then" in note for note in curve.notes)


def test_the_highest_of_the_recorded_limits_can_be_asked_for_as_a_fixed_one(record: Record) -> None:
    tape = record(Service(), AdaptiveLimit(2, 40), inputs=range(600))
    plan = recorded_plan(tape)
    found = forecast(tape, plan.changed(max_concurrency=plan.max_concurrency))
    real = recorded_figures(record(Service(), plan.max_concurrency, inputs=range(600)))
    assert found.predicted.makespan == pytest.approx(real.makespan, rel=1e-6)
    assert found.predicted.makespan < 0.9 * found.replayed.makespan


def test_latency_that_grows_with_load_is_seen_where_the_recording_varies_concurrency(record: Record) -> None:
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
        tape = record(Ramp(), 5, inputs=range(1800))
    assert tape.contention.known == "fitted"
    assert tape.contention.factor(1, 21) == pytest.approx(2.0, rel=0.1)
    assert any("Universal Scalability Law" in note for note in tape.notes)
    found = forecast(tape, recorded_plan(tape).changed(max_concurrency=40)).predicted
    ideal = 1800 / 40 * 0.1 * (1 + 0.05 * 39)
    assert found.makespan == pytest.approx(ideal, rel=0.1)


def test_a_recording_at_one_concurrency_says_that_it_shows_no_contention(record: Record) -> None:
    tape = record(Service(), 10, inputs=range(300))
    assert tape.contention.known == "unknown"
    assert any("assumes latency independent of load" in note for note in tape.notes)
    assert tape.contention.factor(5, 50) == 1.0


def test_what_cannot_be_replayed_of_the_settings_is_said() -> None:
    limit = {"rate": 10, "per": 1.0, "burst": 10, "cost": None}
    settings = {"breaker": "CircuitBreaker(...)", "rate_limits": [limit], "continue_on_error": False}
    plan = Plan.recorded(settings, [[0, 7]])
    assert plan.max_concurrency == 7
    assert len(plan.notes) == 3


def test_a_sweep_is_a_forecast_for_each_value(record: Record) -> None:
    tape = record(Service(), 10, inputs=range(200))
    plan = recorded_plan(tape)
    told: list[int] = []
    curve = sweep(tape, plan, "max_concurrency", [40, 10, 20, 10], told=told.append)
    assert told == [point.value for point in curve.points] == [10, 20, 40]
    assert curve.points[1].figures == forecast(tape, plan.changed(max_concurrency=20)).predicted


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
def test_the_knee_is_where_more_gives_little(curve: list[tuple[int, float]], knee: int | None) -> None:
    assert knee_of(curve) == knee
