"""Load tests in virtual time against services of known capacity."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flowrt.loadtest.load_generator import LoadGenerator
from flowrt.loadtest.output import conclusions, row
from flowrt.loadtest.plan import LatencyBudget, Plan
from flowrt.loadtest.run import Run
from flowrt.loadtest.search import search
from flowrt.loadtest.usl import Scalability
from flowrt.testing import run_virtual
from tests.loadtest.services import Queue, UslService, load_test


@pytest.mark.parametrize(("contention", "coherency"), [(0.02, 0.0005), (0.05, 0.002), (0.0, 0.001)])
def test_search_finds_knee_and_peak_of_a_known_service(contention: float, coherency: float) -> None:
    law = Scalability(2.0, contention, coherency)
    run, _, _ = load_test(UslService(0.5, contention, coherency), step=25, duration=3_000, passes=1)
    found = run.law
    assert found is not None
    assert found.knee == pytest.approx(law.knee, rel=0.15)
    assert found.peak == pytest.approx(law.peak, rel=0.15)
    assert found.error < 0.1
    assert found.trusted
    assert run.best is not None
    assert run.best.throughput.value >= 0.95 * law.throughput(law.peak)
    assert run.best.setting <= 1.1 * law.peak


def test_best_is_the_lowest_of_equally_good_settings() -> None:
    run, _, _ = load_test(Queue(10, 0.1), concurrencies=(1, 5, 10, 20, 40), step=10, passes=1)
    assert run.best is not None
    assert run.best.setting == 10
    assert run.best.throughput.value == pytest.approx(100, rel=0.05)
    assert run.measurements[40].latencies.at(50) == pytest.approx(0.4, rel=0.05)


def test_items_in_flight_never_exceed_the_setting() -> None:
    service = UslService(0.01, 0.0, 0.0)
    load_test(service, concurrencies=(3, 7), step=1)
    assert service.max_in_flight == 7


def test_open_loop_latency_counts_from_the_due_time() -> None:
    # a server of 100 a second: at 150 a second the queue grows, which a loop that waited for its items would hide
    run, _, _ = load_test(Queue(1, 0.01), arrival_rates=(50.0, 150.0), step=2, passes=1, most_concurrency=1)
    calm, crowded = run.measurements.values()
    assert calm.latencies.at(99) == pytest.approx(0.01, rel=0.05)
    assert crowded.latencies.at(95) > 0.5
    assert run.best is calm


def test_open_loop_that_falls_behind_is_stopped() -> None:
    run, generator, took_s = load_test(Queue(1, 0.1), arrival_rates=(1_000.0,), step=60, passes=1, most_concurrency=10)
    (measured,) = run.measurements.values()
    assert measured.outcome == "behind"
    assert took_s < 5
    assert generator.started < 100
    assert run.best is None


def test_failing_step_is_stopped_and_ends_the_search() -> None:
    class Fragile(UslService):
        async def __call__(self, item: Any) -> Any:
            await super().__call__(item)
            if self.max_in_flight > 4:
                raise ConnectionError("too many")
            return item

    run, _, _ = load_test(Fragile(0.01, 0.0, 0.0), concurrencies=(2, 4, 8, 16), step=1, passes=1)
    assert list(run.measurements) == [2, 4, 8]
    assert [measured.outcome for measured in run.measurements.values()] == ["ok", "ok", "failing"]
    assert run.measurements[8].errors == {"ConnectionError": run.measurements[8].failed}
    assert run.best is run.measurements[4]


def test_step_far_beyond_the_latency_budget_is_stopped() -> None:
    budget = LatencyBudget(0.3, 95)
    plan: dict[str, Any] = {"concurrencies": (1, 2, 40), "step": 50, "passes": 1, "latency_budget": budget}
    run, _, took_s = load_test(Queue(2, 0.2), **plan)
    assert run.measurements[40].outcome == "slow"
    assert took_s < 100
    assert run.best is run.measurements[2]


class Failing:
    """Service that fails a share of its calls, which may depend on the items in flight."""

    def __init__(self, share: Callable[[int], float]) -> None:
        self.share = share
        self.in_flight = 0
        self.chance = random.Random(5)  # noqa: S311  # to be the same every time is the point

    async def __call__(self, item: Any) -> Any:
        self.in_flight += 1
        share = self.share(self.in_flight)
        try:
            await asyncio.sleep(0.05)
        finally:
            self.in_flight -= 1
        if self.chance.random() < share:
            raise ConnectionError("refused")
        return item


def test_single_setting_over_the_error_budget_is_not_best() -> None:
    run, _, _ = load_test(Failing(lambda n: 0.02), concurrencies=(20,), step=3, error_budget=0.01)
    assert run.measurements[20].outcome == "ok"
    assert run.best is None
    run, _, _ = load_test(Failing(lambda n: 0.02), concurrencies=(20,), step=3, error_budget=0.05)
    assert run.best is run.measurements[20]


@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize("plan", [{"concurrencies": (4, 16, 64)}, {"arrival_rates": (50.0, 150.0)}])
def test_failures_that_do_not_grow_with_load_do_not_decide(share: float, plan: dict[str, Any]) -> None:
    run, _, _ = load_test(Failing(lambda n: share), step=3, passes=1, **plan)
    assert [each.outcome for each in run.measurements.values()] == ["ok"] * len(run.measurements)
    assert run.best is run.measurements[max(run.measurements)]
    (line,) = [line for line in conclusions(run) if line.startswith("failures: ")]
    assert "do not count against the budget" in line


def test_failures_that_grow_with_load_decide() -> None:
    run, _, _ = load_test(Failing(lambda n: 0.02 if n <= 10 else 0.06), concurrencies=(5, 10, 20), step=10)
    assert run.best is run.measurements[10]
    assert run.added_failures(run.measurements[10]) == 0
    assert run.added_failures(run.measurements[20]) == pytest.approx(0.04, abs=0.015)
    assert row(run, run.measurements[20])[-1] == "over the budget"


def test_search_goes_on_over_failures_that_do_not_grow() -> None:
    run, _, _ = load_test(Failing(lambda n: 0.02), step=2, most_concurrency=64, passes=1)
    assert run.best is run.measurements[64]


def test_search_ends_where_failures_grow() -> None:
    run, _, _ = load_test(
        Failing(lambda n: 0.02 if n <= 16 else 0.08), step=4, most_concurrency=512, passes=1, duration=600
    )
    assert max(run.measurements) <= 64
    assert run.best is not None
    assert run.best.setting <= 16


def test_step_is_stopped_once_load_adds_too_many_failures() -> None:
    run, _, _ = load_test(Failing(lambda n: 0.3 if n <= 10 else 0.6), concurrencies=(5, 10, 20, 40), step=10)
    assert [each.outcome for each in run.measurements.values()] == ["ok", "ok", "failing"]


def test_items_started_never_exceed_max_requests() -> None:
    service = UslService(0.01, 0.0, 0.0)
    run, generator, _ = load_test(service, concurrencies=(5, 10), step=5, max_requests=137)
    assert service.calls == generator.started == 137
    assert run.notes[-1] == "--max-requests 137 was used up: raise it to measure all of it"


def test_setting_that_was_never_reached_is_cut_and_not_best() -> None:
    run, generator, _ = load_test(UslService(1.0, 0.0, 0.0), concurrencies=(100,), step=5, passes=1, max_requests=100)
    (measured,) = run.measurements.values()
    assert generator.started == 100
    assert measured.outcome == "cut"
    assert run.best is None
    assert measured.throughput.value == 0  # the setting was never reached


def test_quick_items_end_a_step_early_so_that_all_are_measured() -> None:
    run, generator, _ = load_test(UslService(0.001, 0.0, 0.0), concurrencies=(1, 10, 100), step=5, max_requests=6_000)
    assert [measured.outcome for measured in run.measurements.values()] == ["ok", "ok", "ok"]
    assert [len(measured.latencies_by_pass) for measured in run.measurements.values()] == [2, 2, 2]
    assert [round(measured.throughput.value) for measured in run.measurements.values()] == pytest.approx(
        [1_000, 10_000, 100_000], rel=0.1
    )
    assert generator.started <= 6_000
    assert "steps ended before their time, so that --max-requests 6000 is enough for all of them" in run.notes[0]


def test_search_over_a_scaling_service_reaches_its_end() -> None:
    run, generator, _ = load_test(UslService(0.01, 0.0, 0.0))
    assert max(run.measurements) == 1_000
    assert all(
        measured.outcome == "ok" and len(measured.latencies_by_pass) == 2 for measured in run.measurements.values()
    )
    assert generator.started < 100_000


@pytest.mark.parametrize("plan", [{}, {"concurrencies": (1, 2, 4)}, {"arrival_rates": (10.0, 20.0)}])
def test_run_ends_within_its_duration(plan: dict[str, Any]) -> None:
    _, _, took_s = load_test(UslService(1.0, 0.0, 0.0), duration=20, step=5, **plan)
    assert took_s <= 20 + 1


def test_run_over_a_hanging_service_ends_within_its_duration() -> None:
    run, _, took_s = load_test(hang, duration=30, step=5)
    assert took_s <= 31
    (measured,) = run.measurements.values()
    assert measured.outcome == "stalled"
    assert run.best is None


async def hang(_: Any) -> None:
    await asyncio.sleep(1e6)


class Hanging:
    """Service that never answers one in `each` calls."""

    def __init__(self, each: int) -> None:
        self.each = each
        self.calls = 0

    async def __call__(self, item: Any) -> Any:
        self.calls += 1
        if self.calls % self.each == 0:
            await hang(item)
        await asyncio.sleep(0.01)
        return item


def test_items_that_never_end_count_as_failures() -> None:
    run, _, took_s = load_test(Hanging(100), concurrencies=(10,), step=4, passes=1)
    (measured,) = run.measurements.values()
    assert measured.outcome == "ok"
    assert measured.errors["Unfinished"] == measured.failed == 10  # each slot has met one
    assert took_s < 40


def test_step_at_a_standstill_is_stopped() -> None:
    run, _, took_s = load_test(Hanging(20), concurrencies=(5, 10), step=100, passes=1, duration=400)
    (measured,) = run.measurements.values()
    assert measured.outcome == "stalled"
    assert measured.errors == {"Unfinished": 5}
    assert took_s < 40
    assert run.best is None


def test_hanging_open_loop_is_stopped_and_counts_unstarted_items() -> None:
    run, _, took_s = load_test(Hanging(2), arrival_rates=(100.0,), step=60, passes=1, most_concurrency=20)
    (measured,) = run.measurements.values()
    assert measured.outcome == "behind"
    assert measured.max_in_flight == 20
    assert measured.errors["Unfinished"] == 20
    assert measured.unstarted == pytest.approx(100, abs=30)  # those due in the second before it was stopped
    assert took_s < 20
    assert any("items were due and could not start: 20 were in flight" in line for line in conclusions(run))


def test_items_slower_than_the_step_are_reported() -> None:
    run, _, _ = load_test(UslService(7.0, 0.0, 0.0), concurrencies=(4,), step=5, passes=1)
    (measured,) = run.measurements.values()
    assert measured.outcome == "short"
    assert (measured.ok, measured.failed) == (0, 0)
    assert "4 at once: too short a step, as an item took 7.0 s: pass --step 28 or more" in list(conclusions(run))


def test_warm_up_counts_if_no_item_ends_after_it() -> None:
    run, _, _ = load_test(UslService(0.01, 0.0, 0.0), arrival_rates=(0.1,), step=5, passes=1)
    (measured,) = run.measurements.values()
    assert (measured.ok, measured.outcome) == (1, "ok")
    assert run.best is measured


def test_shortened_steps_are_reported() -> None:
    run, _, _ = load_test(UslService(0.5, 0.0, 0.0), concurrencies=(1, 2, 4, 8), step=30, passes=2, duration=120)
    assert run.step_s == 15
    assert run.notes[0] == (
        "each step took 15 s instead of --step 30, so that all of them fit into --duration 120: pass --duration 240"
    )


def test_open_loop_of_slow_items_that_keeps_up_is_within_budget() -> None:
    run, _, _ = load_test(UslService(3.0, 0.0, 0.0), arrival_rates=(5.0, 20.0), step=5, passes=1)
    assert [measured.throughput.value for measured in run.measurements.values()] == pytest.approx([5, 20], rel=0.05)
    assert run.best is run.measurements[20]


def test_failures_within_budget_are_no_falling_behind() -> None:
    calls = 0

    async def one_in_twenty(item: Any) -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        if calls % 20 == 0:
            raise ValueError("now and then")
        return item

    run, _, _ = load_test(one_in_twenty, arrival_rates=(50.0,), step=5, passes=1, error_budget=0.1)
    assert run.best is run.measurements[50]


def test_rate_just_above_the_capacity_is_over_budget() -> None:
    run, _, _ = load_test(Queue(1, 0.01), arrival_rates=(90.0, 105.0), step=5, passes=2)
    assert run.best is run.measurements[90]
    assert not run.keeps_up(run.measurements[105])
    assert row(run, run.measurements[105])[-1] == "over: items came faster than they ended"


def test_noisy_latencies_are_no_falling_behind() -> None:
    chance = random.Random(3)  # noqa: S311  # to be the same every time is the point

    async def uneven(item: Any) -> Any:
        await asyncio.sleep(chance.lognormvariate(-3, 1))
        return item

    runs = [load_test(uneven, arrival_rates=(40.0,), step=5, passes=1)[0] for _ in range(20)]
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

    run, _, _ = load_test(first_fails, most_concurrency=16, passes=1)
    assert max(run.measurements) == 16


def test_search_that_ends_without_gain_suggests_no_more() -> None:
    run, _, _ = load_test(Queue(8, 0.05), most_concurrency=16, passes=1)
    assert max(run.measurements) == 16
    assert run.notes == []


def test_items_that_survive_cancellation_end_the_run() -> None:
    async def main() -> Run:
        released = asyncio.Event()

        async def stubborn(item: Any) -> Any:
            while item == 2 and not released.is_set():
                with suppress(asyncio.CancelledError):
                    await released.wait()
            await asyncio.sleep(0.01)
            return item

        run = Run(Plan(concurrencies=(2, 4), step=2, passes=1))
        await search(LoadGenerator(stubborn, [1, 2, 3], run.plan), run, lambda _: None)
        released.set()
        await asyncio.sleep(1)
        return run

    run = run_virtual(main())
    assert list(run.measurements) == [2]
    assert "ended early: items went on after their cancellation" in run.notes[-1]
    assert run.notes[-1].endswith("not measured: 4")


def test_timed_out_items_are_failures() -> None:
    run, _, _ = load_test(UslService(1.0, 0.0, 0.0), concurrencies=(10,), step=20, duration=60, item_timeout=0.1)
    (measured,) = run.measurements.values()
    assert measured.outcome == "failing"
    assert set(measured.errors) == {"TimeoutError"}


def test_search_stops_at_most_concurrency_and_says_so() -> None:
    run, _, _ = load_test(UslService(0.1, 0.0, 0.0), step=2, most_concurrency=50, passes=1)
    assert max(run.measurements) == 50
    assert run.notes == ["throughput still rose at 50, the highest that --most-concurrency 50 allows: raise it"]


def test_every_setting_is_measured_in_every_pass() -> None:
    run, _, _ = load_test(UslService(0.01, 0.02, 0.0), concurrencies=(1, 2), step=2, passes=3)
    assert [len(measured.latencies_by_pass) for measured in run.measurements.values()] == [3, 3]
    assert [len(measured.slices) for measured in run.measurements.values()] == [15, 15]
