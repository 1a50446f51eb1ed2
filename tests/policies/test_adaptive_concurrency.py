"""AdaptiveLimit against a simulated service: it settles near the knee, and every change has its reason."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrt.policies.adaptive_concurrency import AdaptiveLimit, LimitController
from tests.examples import examples
from tests.policies.in_threads import in_threads
from tests.policies.simulate import Run, seeded, simulate

Draw = Callable[[random.Random], float]

SERVICE: dict[str, Draw] = {
    "always the same": lambda r: 0.1,
    "uniform": lambda r: r.uniform(0.05, 0.15),
    "exponential": lambda r: r.expovariate(10),
    "heavy-tailed": lambda r: r.lognormvariate(math.log(0.1) - 0.5, 1.0),
}  # each with a mean of 0.1 s


def batch(policy: AdaptiveLimit, results: int = 10_000, *, seed: int = 1, draw: str = "uniform", **how: Any) -> Run:
    rng = seeded(seed)
    how.setdefault("capacity", lambda at: 50)
    how.setdefault("service_s", lambda at: SERVICE[draw](rng))
    return simulate(policy.begin(), results, **how)


@pytest.mark.parametrize("draw", SERVICE)
@pytest.mark.parametrize("capacity", [4, 20, 100])
@pytest.mark.parametrize("seed", [1, 2])
def test_limit_settles_near_the_knee_for_any_latency_distribution(capacity: int, draw: str, seed: int) -> None:
    run = batch(AdaptiveLimit(1, 1000), 12_000, seed=seed, draw=draw, capacity=lambda at: capacity)
    assert 0.8 * capacity <= run.mean_limit() <= 2 * capacity
    assert run.rate() >= 0.85 * capacity / 0.1
    assert max(run.limits) <= 5 * capacity


def test_limit_finds_a_knee_of_one() -> None:
    run = batch(AdaptiveLimit(1, 1000), 2_000, capacity=lambda at: 1)
    assert run.mean_limit() < 3


def test_limit_stays_at_its_maximum_while_latency_is_flat() -> None:
    run = batch(AdaptiveLimit(2, 40), 20_000, capacity=lambda at: 1000)
    assert run.mean_limit() > 38
    assert max(run.limits) == 40


def test_limit_falls_when_the_service_loses_capacity() -> None:
    run = batch(AdaptiveLimit(1, 500), 20_000, capacity=lambda at: 50 if at < 20 else 10)
    assert 9 <= run.mean_limit(0.8) <= 20


def test_limit_rises_when_the_service_gains_capacity() -> None:
    run = batch(AdaptiveLimit(1, 500), 20_000, capacity=lambda at: 10 if at < 20 else 50)
    assert 45 <= run.mean_limit(0.7) <= 90


def test_limit_survives_a_service_that_becomes_slower_by_itself() -> None:
    """Latency that does not fall with the limit is not caused by queueing: the baseline rises to it."""
    rng = seeded(1)
    run = batch(AdaptiveLimit(1, 500), 20_000, service_s=lambda at: rng.uniform(0.05, 0.15) * (3 if at > 20 else 1))
    assert 45 <= run.mean_limit(0.7) <= 90


def test_baseline_recovers_from_a_start_far_beyond_the_knee() -> None:
    run = batch(AdaptiveLimit(1, 500, start=40), 20_000, capacity=lambda at: 5)
    assert run.mean_limit(0.8) < 12


def test_limit_grows_only_while_all_slots_are_in_use() -> None:
    run = batch(AdaptiveLimit(1, 500), 10_000, capacity=lambda at: 1000, demand=20)
    assert max(run.limits) <= 32, "twenty attempts at once prove nothing about more than the next doubling"


def test_throttling_cuts_the_limit_and_rarely_recurs() -> None:
    rng = seeded(1)
    controller = AdaptiveLimit(1, 500).begin()
    run = simulate(
        controller, 10_000, capacity=lambda at: 100, service_s=lambda at: rng.uniform(0.05, 0.15), refuse_above=30
    )
    cuts = [change for change in controller.changes if change.reason == "throttled"]
    assert cuts
    assert all(change.new == max(1, math.floor(0.7 * change.old)) for change in cuts)
    assert 22 <= run.mean_limit() <= 31
    assert run.rate() > 200


def test_burst_of_throttling_causes_one_cut() -> None:
    controller = AdaptiveLimit(1, 100, start=50).begin()
    for i in range(200):
        controller.on_result(1_000_000_000 + i, 20_000_000, 50, "throttled")
    assert [(change.old, change.new) for change in controller.changes] == [(50, 35)], (
        "what began before the cut says nothing of the limit after it"
    )


def test_next_cut_waits_until_the_last_one_took_effect() -> None:
    """Refusals return fast: one per millisecond must not cut the limit to its minimum at once."""
    controller = AdaptiveLimit(1, 100, start=50, window=0.1).begin()
    for ms in range(1, 251):
        controller.on_result(ms * 1_000_000, 500_000, 50, "throttled")
    assert [(change.at_ns // 1_000_000, change.new) for change in controller.changes] == [(1, 35), (101, 24), (201, 16)]


class Attempts:
    """Attempts that end 10 ms apart, reported to a new controller.

    Args:
        policy: Its policy.
    """

    def __init__(self, policy: AdaptiveLimit) -> None:
        self.controller = policy.begin()
        self.now_ns = 1_000_000_000

    def end(self, count: int, latency_s: float, outcome: Any = "ok", *, full: bool = True) -> None:
        """Report attempts, with all slots in use or with one."""
        for _ in range(count):
            self.now_ns += 10_000_000
            inflight = self.controller.limit if full else 1
            self.controller.on_result(self.now_ns, round(latency_s * 1e9), inflight, outcome)

    def changes(self) -> list[tuple[int, str]]:
        return [(change.new, change.reason) for change in self.controller.changes]


def test_next_cut_waits_for_the_latency_of_a_slow_service() -> None:
    attempts = Attempts(AdaptiveLimit(1, 100, start=50, window=0.1))
    attempts.end(200, 1.0, full=False)
    assert attempts.controller.baseline_s == pytest.approx(1.0)
    attempts.end(250, 0.0005, "throttled")
    cuts = [change.at_ns for change in attempts.controller.changes]
    assert [later - earlier for earlier, later in itertools.pairwise(cuts)] == [1_000_000_000] * 2


def test_growth_is_careful_up_to_the_throttled_limit_and_free_beyond_it() -> None:
    controller = AdaptiveLimit(1, 1000, start=40).begin()
    controller.on_result(1, 1, 40, "throttled")
    simulate(controller, 1_000, capacity=lambda at: 1000, service_s=lambda at: 0.1)
    assert [change.new for change in controller.changes][:13] == [28, 33, *range(34, 42), 47, 53, 60]


def test_limit_that_holds_for_ten_rounds_is_probed() -> None:
    attempts = Attempts(AdaptiveLimit(1, 100, start=20, tolerance=2.0, window=0.1))
    attempts.end(60, 0.1, full=False)
    attempts.end(10 * 20 - 1, 0.15)  # between the baseline and the tolerance
    assert attempts.changes() == []
    attempts.end(1, 0.15)
    assert attempts.changes() == [(12, "probe")], "0.9 of the knee at 20 * 0.1 / 0.15"


def test_timeouts_that_were_usual_long_ago_cut_the_limit_again() -> None:
    attempts = Attempts(AdaptiveLimit(1, 100, start=20, tolerance=100, window=0.1))
    attempts.end(60, 0.1, full=False)
    attempts.end(200, 0.1, "timed_out")
    settled = attempts.controller.limit
    assert settled > 1, "timeouts that cuts do not cure cut no more"
    attempts.end(400, 0.1, full=False)
    for _ in range(5):
        attempts.end(3, 0.1, full=False)
        attempts.end(1, 0.1, "timed_out")
    assert attempts.controller.limit < settled


def test_timeouts_caused_by_queueing_cut_the_limit() -> None:
    rng = seeded(1)
    controller = AdaptiveLimit(1, 500, tolerance=100).begin()  # latency alone would never cut
    run = simulate(
        controller, 15_000, capacity=lambda at: 50, service_s=lambda at: rng.uniform(0.05, 0.15), timeout_s=0.2
    )
    assert any(change.reason == "timeouts" for change in controller.changes)
    assert 45 <= run.mean_limit() <= 90
    assert run.timed_out < 0.12 * 15_000


def test_timeouts_of_other_causes_do_not_keep_the_limit_low() -> None:
    rng = seeded(1)
    run = batch(AdaptiveLimit(1, 500), 20_000, service_s=lambda at: rng.uniform(0.05, 0.15), timeout_s=0.12)
    assert run.timed_out > 5_000
    assert run.mean_limit(0.7) > 20


def test_failures_do_not_change_the_limit() -> None:
    controller = AdaptiveLimit(1, 100).begin()
    for i in range(1, 1000):
        controller.on_result(i * 1_000_000_000, 1_000_000, 1, "failed")
    assert controller.changed == 0
    assert controller.baseline_s == 0


def test_slow_start_doubles_and_records_the_reason() -> None:
    controller = AdaptiveLimit(1, 64).begin()
    simulate(controller, 2_000, capacity=lambda at: 1000, service_s=lambda at: 0.1)
    assert [(change.old, change.new, change.reason) for change in controller.changes] == [
        (limit, 2 * limit, "slow_start") for limit in (1, 2, 4, 8, 16, 32)
    ]
    times = [change.at_ns for change in controller.changes]
    assert times == sorted(times)
    assert controller.baseline_s == pytest.approx(0.1)
    assert controller.changes[-1].latency_s == pytest.approx(0.1)
    assert repr(controller) == "<LimitController: 64 of 1 to 64, baseline 0.1 s>"


def test_set_clamps_the_limit_to_its_bounds() -> None:
    controller = AdaptiveLimit(2, 50).begin()
    assert [controller.set(1, 20), controller.set(2, 1000), controller.set(3, 0)] == [20, 50, 2]
    assert [change.reason for change in controller.changes] == ["set"] * 3
    assert controller.set(4, 2) == 2
    assert controller.changed == 3, "no change is no event"


results = st.tuples(
    st.integers(0, 10**9),
    st.integers(0, 10**10),
    st.integers(1, 200),
    st.sampled_from(["ok", "failed", "timed_out", "throttled"]),
)


@given(st.integers(1, 50), st.integers(0, 100), st.data(), st.lists(results, max_size=300))
@settings(max_examples=examples(200))
def test_limit_stays_in_bounds_and_records_every_change(
    least: int, span: int, data: st.DataObject, ended: list[tuple[int, int, int, Any]]
) -> None:
    start = data.draw(st.none() | st.integers(least, least + span))
    controller = AdaptiveLimit(least, least + span, start=start).begin()
    limit, now, seen = controller.limit, 1, 0
    assert limit == (least if start is None else start)
    for step, latency, inflight, outcome in ended:
        now += step
        new = controller.on_result(now, latency, inflight, outcome)
        assert least <= new <= least + span
        assert new == controller.limit
        if new != limit:
            change = controller.changes[-1]
            seen += 1
            assert (change.at_ns, change.old, change.new) == (now, limit, new)
            assert (change.reason in {"slow_start", "growth"}) == (new > limit)
            limit = new
    assert controller.changed == seen == len(controller.changes)


@given(st.integers(1, 5), st.integers(5, 60), st.integers(0, 2**32), st.sampled_from(list(SERVICE)))
@settings(max_examples=examples(15), deadline=None)
def test_service_of_any_size_is_used_but_not_flooded(least: int, capacity: int, seed: int, draw: str) -> None:
    def inspect(controller: LimitController) -> None:
        assert least <= controller.limit <= 200

    run = batch(AdaptiveLimit(least, 200), 6_000, seed=seed, draw=draw, capacity=lambda at: capacity, inspect=inspect)
    assert 0.6 * capacity <= run.mean_limit() <= 2.5 * capacity


def test_threads_that_share_a_limit_keep_its_changes_in_order() -> None:
    controller = AdaptiveLimit(1, 64, window=0.00001).begin()
    outcomes: list[Any] = ["ok"] * 30 + ["throttled", "timed_out", "failed"]
    clock = itertools.count(1, 100_000)

    def attempts() -> None:
        for number in range(3_000):
            outcome = outcomes[number % len(outcomes)]
            limit = controller.on_result(next(clock), 50_000, 64, outcome)
            assert 1 <= limit <= 64

    in_threads(attempts)
    limits = [(change.old, change.new) for change in controller.changes]
    assert len(limits) > 20
    assert all(earlier[1] == later[0] for earlier, later in itertools.pairwise(limits))
    assert controller.limit == limits[-1][1]
    assert controller._skip >= 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min": 0}, "min must be an integer of at least 1, not 0"),
        ({"min": True}, "min must be an integer"),
        ({"min": 1.5}, "min must be an integer"),
        ({"min": 5, "max": 4}, "max must be at least min=5, not 4"),
        ({"max": math.nan}, "max must be an integer"),
        ({"min": 2, "start": 1}, "start must be from min=2 to max=100, not 1"),
        ({"start": False}, "start must be an integer"),
        ({"tolerance": 1}, "tolerance must be a number above 1, not 1"),
        ({"tolerance": math.nan}, "tolerance must be a number"),
        ({"window": -1}, "window must be a number of seconds of at least 0, not -1"),
        ({"window": math.inf}, "window must be a number"),
    ],
)
def test_setting_out_of_range_is_refused_with_value_and_fix(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveLimit(**wrong)
