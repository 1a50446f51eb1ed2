"""Load in virtual time on services whose capacity is known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowrt.loadtest.plan import LatencyBudget
from flowrt.loadtest.usl import Scalability
from tests.loadtest.services import Queue, UslService, measured


@pytest.mark.parametrize(("contention", "coherency"), [(0.02, 0.0005), (0.05, 0.002), (0.0, 0.001)])
def test_the_search_finds_the_knee_and_the_peak_of_a_known_service(contention: float, coherency: float) -> None:
    law = Scalability(2.0, contention, coherency, 1.0)
    run, _, _ = measured(UslService(0.5, contention, coherency), step=25, duration=3_000, passes=1)
    found = run.law
    assert found is not None
    assert found.knee == pytest.approx(law.knee, rel=0.15)
    assert found.peak == pytest.approx(law.peak, rel=0.15)
    assert found.fit > 0.97
    assert run.best is not None
    assert run.best.throughput.value >= 0.95 * law.throughput(law.peak)
    assert run.best.setting <= 1.1 * law.peak


def test_of_settings_that_are_as_good_the_lowest_is_best() -> None:
    run, _, _ = measured(Queue(10, 0.1), concurrencies=(1, 5, 10, 20, 40), step=10, passes=1)
    assert run.best is not None
    assert run.best.setting == 10
    assert run.best.throughput.value == pytest.approx(100, rel=0.05)
    assert run.steps[40].latencies.at(50) == pytest.approx(0.4, rel=0.05)


def test_no_more_run_at_once_than_the_setting_says() -> None:
    service = UslService(0.01, 0.0, 0.0)
    measured(service, concurrencies=(3, 7), step=1)
    assert service.most == 7


def test_in_an_open_loop_latency_counts_from_when_the_item_was_to_start() -> None:
    # one server with 100 a second: 150 a second wait longer and longer, and a loop that waited for them would hide it
    run, _, _ = measured(Queue(1, 0.01), arrival_rates=(50.0, 150.0), step=2, passes=1, most_concurrency=1)
    calm, crowded = run.steps.values()
    assert calm.latencies.at(99) == pytest.approx(0.01, rel=0.05)
    assert crowded.latencies.at(95) > 0.5
    assert run.best is calm


def test_an_open_loop_that_falls_behind_is_stopped() -> None:
    run, driver, took_s = measured(Queue(1, 0.1), arrival_rates=(1_000.0,), step=60, passes=1, most_concurrency=10)
    (step,) = run.steps.values()
    assert step.outcome == "behind"
    assert took_s < 5
    assert driver.started < 100
    assert run.best is None


def test_a_step_whose_items_fail_is_stopped_and_no_higher_one_is_tried() -> None:
    class Fragile(UslService):
        async def __call__(self, item: Any) -> Any:
            await super().__call__(item)
            if self.most > 4:
                raise ConnectionError("too many")
            return item

    run, _, _ = measured(Fragile(0.01, 0.0, 0.0), concurrencies=(2, 4, 8, 16), step=1, passes=1)
    assert list(run.steps) == [2, 4, 8]
    assert [step.outcome for step in run.steps.values()] == ["ok", "ok", "failing"]
    assert run.steps[8].errors == {"ConnectionError": run.steps[8].failed}
    assert run.best is run.steps[4]


def test_a_step_far_beyond_the_latency_budget_is_stopped() -> None:
    budget = LatencyBudget(0.3, 95)
    plan: dict[str, Any] = {"concurrencies": (1, 2, 40), "step": 50, "passes": 1, "latency_budget": budget}
    run, _, took_s = measured(Queue(2, 0.2), **plan)
    assert run.steps[40].outcome == "slow"
    assert took_s < 100
    assert run.best is run.steps[2]


def test_a_setting_over_the_error_budget_is_not_the_best() -> None:
    calls = 0

    async def one_in_fifty(item: Any) -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        if calls % 50 == 0:
            raise ValueError("now and then")
        return item

    run, _, _ = measured(one_in_fifty, concurrencies=(1, 2), step=5, passes=1, error_budget=0.01)
    assert [step.outcome for step in run.steps.values()] == ["ok", "ok"]
    assert run.best is None
    run, _, _ = measured(one_in_fifty, concurrencies=(1, 2), step=5, passes=1, error_budget=0.05)
    assert run.best is run.steps[2]


def test_no_more_items_are_started_than_may_be() -> None:
    service = UslService(0.01, 0.0, 0.0)
    run, driver, _ = measured(service, concurrencies=(5, 10), step=5, max_requests=137)
    assert service.calls == driver.started == 137
    assert run.notes == ["max_requests=137 was used up"]
    assert run.steps[5].outcome == "cut"


@pytest.mark.parametrize("plan", [{}, {"concurrencies": (1, 2, 4)}, {"arrival_rates": (10.0, 20.0)}])
def test_it_takes_no_longer_than_it_may(plan: dict[str, Any]) -> None:
    _, _, took_s = measured(UslService(1.0, 0.0, 0.0), duration=20, step=5, **plan)
    assert took_s <= 20 + 1


def test_a_service_that_never_answers_ends_within_the_time() -> None:
    async def hang(_: Any) -> None:
        await asyncio.sleep(1e6)

    run, _, took_s = measured(hang, duration=30, step=5)
    assert took_s <= 31
    (step,) = run.steps.values()
    assert step.outcome == "stalled"
    assert run.best is None


def test_items_that_run_out_of_time_are_failures() -> None:
    run, _, _ = measured(UslService(1.0, 0.0, 0.0), concurrencies=(10,), step=20, duration=60, item_timeout=0.1)
    (step,) = run.steps.values()
    assert step.outcome == "failing"
    assert set(step.errors) == {"TimeoutError"}


def test_the_search_goes_no_further_than_it_may_and_says_so() -> None:
    run, _, _ = measured(UslService(0.1, 0.0, 0.0), step=2, most_concurrency=50, passes=1)
    assert max(run.steps) == 50
    assert run.notes == ["throughput still rose at 50, which is as far as the search goes"]


def test_every_setting_is_measured_in_every_pass() -> None:
    run, _, _ = measured(UslService(0.01, 0.02, 0.0), concurrencies=(1, 2), step=2, passes=3)
    assert [len(step.by_pass) for step in run.steps.values()] == [3, 3]
    assert [len(step.slices) for step in run.steps.values()] == [15, 15]
