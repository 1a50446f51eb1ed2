"""Load in virtual time on services whose capacity is known."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest

from flowrt.loadtest.load_generator import Driver
from flowrt.loadtest.output import conclusions, row
from flowrt.loadtest.plan import LatencyBudget, Plan
from flowrt.loadtest.search import Run, climb
from flowrt.loadtest.usl import Scalability
from tests.conftest import run_on, virtual_loop
from tests.loadtest.services import Queue, UslService, measured


@pytest.mark.parametrize(("contention", "coherency"), [(0.02, 0.0005), (0.05, 0.002), (0.0, 0.001)])
def test_the_search_finds_the_knee_and_the_peak_of_a_known_service(contention: float, coherency: float) -> None:
    law = Scalability(2.0, contention, coherency)
    run, _, _ = measured(UslService(0.5, contention, coherency), step=25, duration=3_000, passes=1)
    found = run.law
    assert found is not None
    assert found.knee == pytest.approx(law.knee, rel=0.15)
    assert found.peak == pytest.approx(law.peak, rel=0.15)
    assert found.error < 0.1
    assert found.trusted
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
    assert run.notes[-1] == "--max-requests 137 was used up: raise it to measure all of it"


def test_a_setting_that_was_never_reached_is_cut_and_not_the_best() -> None:
    run, driver, _ = measured(UslService(1.0, 0.0, 0.0), concurrencies=(100,), step=5, passes=1, max_requests=100)
    (step,) = run.steps.values()
    assert driver.started == 100
    assert step.outcome == "cut"
    assert run.best is None
    assert step.throughput.value == 0  # nobody knows what it would have been


def test_quick_items_end_a_step_before_they_are_used_up_so_that_all_settings_are_measured() -> None:
    run, driver, _ = measured(UslService(0.001, 0.0, 0.0), concurrencies=(1, 10, 100), step=5, max_requests=6_000)
    assert [step.outcome for step in run.steps.values()] == ["ok", "ok", "ok"]
    assert [len(step.by_pass) for step in run.steps.values()] == [2, 2, 2]
    assert [round(step.throughput.value) for step in run.steps.values()] == pytest.approx(
        [1_000, 10_000, 100_000], rel=0.1
    )
    assert driver.started <= 6_000
    assert "steps ended before their time, so that --max-requests 6000 is enough for all of them" in run.notes[0]


def test_a_search_over_a_service_that_scales_goes_on_to_its_end() -> None:
    run, driver, _ = measured(UslService(0.01, 0.0, 0.0))
    assert max(run.steps) == 1_000
    assert all(step.outcome == "ok" and len(step.by_pass) == 2 for step in run.steps.values())
    assert driver.started < 100_000


@pytest.mark.parametrize("plan", [{}, {"concurrencies": (1, 2, 4)}, {"arrival_rates": (10.0, 20.0)}])
def test_it_takes_no_longer_than_it_may(plan: dict[str, Any]) -> None:
    _, _, took_s = measured(UslService(1.0, 0.0, 0.0), duration=20, step=5, **plan)
    assert took_s <= 20 + 1


def test_a_service_that_never_answers_ends_within_the_time() -> None:
    run, _, took_s = measured(hang, duration=30, step=5)
    assert took_s <= 31
    (step,) = run.steps.values()
    assert step.outcome == "stalled"
    assert run.best is None


async def hang(_: Any) -> None:
    await asyncio.sleep(1e6)


class Hanging:
    """One in so many never answers."""

    def __init__(self, each: int) -> None:
        self.each = each
        self.calls = 0

    async def __call__(self, item: Any) -> Any:
        self.calls += 1
        if self.calls % self.each == 0:
            await hang(item)
        await asyncio.sleep(0.01)
        return item


def test_items_that_never_end_are_failures() -> None:
    run, _, took_s = measured(Hanging(100), concurrencies=(10,), step=4, passes=1)
    (step,) = run.steps.values()
    assert step.outcome == "ok" or step.outcome == "stalled"
    assert step.errors["Unfinished"] == step.failed == 10  # each slot has met one
    assert took_s < 40


def test_a_step_in_which_nothing_ends_any_more_is_stopped() -> None:
    run, _, took_s = measured(Hanging(20), concurrencies=(5, 10), step=100, passes=1, duration=400)
    (step,) = run.steps.values()
    assert step.outcome == "stalled"
    assert step.errors == {"Unfinished": 5}
    assert took_s < 40
    assert run.best is None


def test_an_open_loop_whose_slots_all_hang_is_stopped_and_tells_what_could_not_start() -> None:
    run, _, took_s = measured(Hanging(2), arrival_rates=(100.0,), step=60, passes=1, most_concurrency=20)
    (step,) = run.steps.values()
    assert step.outcome == "behind"
    assert step.most == 20
    assert step.errors["Unfinished"] == 20
    assert step.unstarted == pytest.approx(100, abs=30)  # those of the second that it waited
    assert took_s < 20
    assert any("items were due and could not start, 20 being in flight" in line for line in conclusions(run))


def test_items_slower_than_the_step_are_told_of() -> None:
    run, _, _ = measured(UslService(7.0, 0.0, 0.0), concurrencies=(4,), step=5, passes=1)
    (step,) = run.steps.values()
    assert step.outcome == "short"
    assert (step.ok, step.failed) == (0, 0)
    assert "4 at once: too short a step, as an item took 7.0 s: pass --step 28 or more" in list(conclusions(run))


def test_items_that_end_in_the_warm_up_alone_are_better_than_nothing() -> None:
    run, _, _ = measured(UslService(0.01, 0.0, 0.0), arrival_rates=(0.1,), step=5, passes=1)
    (step,) = run.steps.values()
    assert (step.ok, step.outcome) == (1, "ok")
    assert run.best is step


def test_steps_that_are_shorter_than_asked_for_are_told_of() -> None:
    run, _, _ = measured(UslService(0.5, 0.0, 0.0), concurrencies=(1, 2, 4, 8), step=30, passes=2, duration=120)
    assert run.step_s == 15
    assert run.notes[0] == (
        "each step took 15 s instead of --step 30, so that all of them fit into --duration 120: pass --duration 240"
    )


def test_an_open_loop_of_slow_items_that_keeps_up_is_within_the_budget() -> None:
    run, _, _ = measured(UslService(3.0, 0.0, 0.0), arrival_rates=(5.0, 20.0), step=5, passes=1)
    assert [step.throughput.value for step in run.steps.values()] == pytest.approx([5, 20], rel=0.05)
    assert run.best is run.steps[20]


def test_failures_within_their_budget_do_not_count_as_falling_behind() -> None:
    calls = 0

    async def one_in_twenty(item: Any) -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        if calls % 20 == 0:
            raise ValueError("now and then")
        return item

    run, _, _ = measured(one_in_twenty, arrival_rates=(50.0,), step=5, passes=1, error_budget=0.1)
    assert run.best is run.steps[50]


def test_a_rate_just_above_the_capacity_is_not_within_the_budget() -> None:
    run, _, _ = measured(Queue(1, 0.01), arrival_rates=(90.0, 105.0), step=5, passes=2)
    assert run.best is run.steps[90]
    assert not run.keeps_up(run.steps[105])
    assert row(run, run.steps[105])[-1] == "over: items came faster than they ended"


def test_noise_of_the_latencies_is_no_falling_behind() -> None:
    chance = random.Random(3)  # noqa: S311  # to be the same every time is the point

    async def uneven(item: Any) -> Any:
        await asyncio.sleep(chance.lognormvariate(-3, 1))
        return item

    runs = [measured(uneven, arrival_rates=(40.0,), step=5, passes=1)[0] for _ in range(20)]
    assert sum(run.best is not None for run in runs) >= 19


def test_one_failure_among_few_items_does_not_end_the_search() -> None:
    calls = 0

    async def first_fails(item: Any) -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.1)
        if calls == 10:
            raise ConnectionError("reset")
        return item

    run, _, _ = measured(first_fails, most_concurrency=16, passes=1)
    assert max(run.steps) == 16


def test_a_search_that_ends_where_nothing_is_gained_does_not_say_that_more_would_be() -> None:
    run, _, _ = measured(Queue(8, 0.05), most_concurrency=16, passes=1)
    assert max(run.steps) == 16
    assert run.notes == []


def test_items_that_go_on_when_they_are_cancelled_end_the_run() -> None:
    async def main() -> Run:
        released = asyncio.Event()

        async def stubborn(item: Any) -> Any:
            while item == 2 and not released.is_set():
                with suppress(asyncio.CancelledError):
                    await released.wait()
            await asyncio.sleep(0.01)
            return item

        run = Run(Plan(concurrencies=(2, 4), step=2, passes=1))
        await climb(Driver(stubborn, [1, 2, 3], run.plan), run, lambda _: None)
        released.set()
        await asyncio.sleep(1)
        return run

    run = run_on(virtual_loop, main())
    assert list(run.steps) == [2]
    assert "ended early: items went on when they were cancelled" in run.notes[-1]
    assert run.notes[-1].endswith("not measured: 4")


def test_items_that_run_out_of_time_are_failures() -> None:
    run, _, _ = measured(UslService(1.0, 0.0, 0.0), concurrencies=(10,), step=20, duration=60, item_timeout=0.1)
    (step,) = run.steps.values()
    assert step.outcome == "failing"
    assert set(step.errors) == {"TimeoutError"}


def test_the_search_goes_no_further_than_it_may_and_says_so() -> None:
    run, _, _ = measured(UslService(0.1, 0.0, 0.0), step=2, most_concurrency=50, passes=1)
    assert max(run.steps) == 50
    assert run.notes == ["throughput still rose at 50, which is as far as --most-concurrency 50 goes: raise it"]


def test_every_setting_is_measured_in_every_pass() -> None:
    run, _, _ = measured(UslService(0.01, 0.02, 0.0), concurrencies=(1, 2), step=2, passes=3)
    assert [len(step.by_pass) for step in run.steps.values()] == [3, 3]
    assert [len(step.slices) for step in run.steps.values()] == [15, 15]
