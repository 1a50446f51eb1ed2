"""Window against a naive implementation of its two rules."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowrt.policies.sliding_window import UNIT, Charge, Window
from tests.examples import examples


def worst_window(charges: list[tuple[int, int]], per_ns: int) -> int:
    """Return the largest sum within any half-open interval of length `per_ns`; some maximum starts at a charge."""
    return max((sum(cost for at, cost in charges if begin <= at < begin + per_ns) for begin, _ in charges), default=0)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[int, int, int, list[tuple[int, int]]]:
    rate = draw(st.integers(1, 50))
    per_ns = draw(st.sampled_from([1_000, 10**6, 10**9, 60 * 10**9]))
    burst = draw(st.integers(1, rate))
    step = st.integers(0, per_ns // 4)
    return rate, per_ns, burst, draw(st.lists(st.tuples(step, st.integers(0, rate)), max_size=80))


@given(arrivals())
@settings(max_examples=examples(400))
def test_no_window_exceeds_the_rate(case: Any) -> None:
    rate, per_ns, burst, asked = case
    window = Window(rate, per_ns, burst)
    now, charges = 5, []
    for step, cost in asked:
        now += step
        fits = window.fits(cost, now)
        assert (window.take(cost, now) is not None) == fits
        if fits:
            charges.append((now, cost))
    assert worst_window(charges, per_ns) <= rate


@given(arrivals())
@settings(max_examples=examples(400))
def test_waiting_until_ready_suffices_and_no_window_overflows(case: Any) -> None:
    rate, per_ns, burst, asked = case
    window = Window(rate, per_ns, burst)
    now, charges = 5, []
    for step, cost in asked:
        now += step
        ready = window.ready_ns(cost, now)
        assert ready is not None
        assert ready >= now
        if ready > now:
            assert not window.fits(cost, ready - 1), "it said a later time than need be"
        now = ready
        assert window.fits(cost, now)
        window.charge(cost, now)
        charges.append((now, cost))
    assert worst_window(charges, per_ns) <= rate


def test_full_rate_is_reached_and_sustained() -> None:
    window = Window(100, 10**9, 100)
    now, admitted = 1, []
    while len(admitted) < 1000:
        ready = window.ready_ns(1, now)
        assert ready is not None
        now = ready
        window.charge(1, now)
        admitted.append(now)
    assert admitted[99] == 1, "a burst of the whole rate comes at once"
    assert admitted[-1] - admitted[0] == 9 * 10**9


def test_pace_is_even_with_a_burst_of_one() -> None:
    window = Window(100, 10**9, 1)
    now, admitted = 1, []
    for _ in range(300):
        ready = window.ready_ns(1, now)
        assert ready is not None
        now = ready
        window.charge(1, now)
        admitted.append(now)
    assert {later - sooner for sooner, later in itertools.pairwise(admitted)} == {10**7}


def test_burst_is_at_least_the_share_of_ten_milliseconds() -> None:
    """Timers of event loops are no finer: a smaller burst would cost throughput."""
    window = Window(100_000, 10**9, 1)
    assert sum(window.take(1, 1) is not None for _ in range(2_000)) == 1_000


def test_cost_above_the_burst_waits_for_the_even_flow() -> None:
    window = Window(100, 10**9, 10)
    assert window.fits(60, 1)
    window.charge(60, 1)
    assert window.ready_ns(1, 1) == 1 + 600_000_000 - 90_000_000
    assert window.ready_ns(30, 1) == 1 + 600_000_000


def test_surplus_given_back_lets_the_next_start_sooner() -> None:
    window = Window(100, 10**9, 10)
    charge = window.charge(60, 1)
    window.settle(charge, 60, 20, 1)
    assert window.ready_ns(1, 1) == 1 + 200_000_000 - 90_000_000


def test_log_is_bounded_for_any_number_of_charges() -> None:
    window = Window(10**6 * UNIT, 10**9, 10**6 * UNIT)
    for i in range(100_000):
        window.charge(UNIT, i * 10_000)
    assert len(window) <= 1100


@given(st.lists(st.integers(1, 10**6), max_size=2000))
@settings(max_examples=examples(50))
def test_merged_charges_keep_every_window(steps: list[int]) -> None:
    """Steps far below a thousandth of the window, so that most charges are merged."""
    window, now, charges = Window(300, 10**9, 300), 1, []
    for step in steps:
        now += step
        if window.take(1, now):
            charges.append((now, 1))
    assert worst_window(charges[-600:], 10**9) <= 300


def test_merged_charges_do_not_slow_a_steady_flow() -> None:
    """Each start is within a thousandth of the window after the one before, so that charges are merged."""
    window = Window(2_000, 10**9, 2_000)
    admitted = sum(window.take(1, 1 + step * 500_000) is not None for step in range(20_000))
    assert admitted >= 19_900


class Reconciling(RuleBasedStateMachine):
    """Charges, reservations and settlements in any order, compared with a plain list."""

    @initialize(rate=st.integers(1, 30), burst=st.integers(1, 30))
    def begin(self, rate: int, burst: int) -> None:
        self.per_ns = 10_000
        self.window = Window(rate, self.per_ns, min(burst, rate))
        self.rate = rate
        self.now = 1
        self.open: list[tuple[Charge, int, int]] = []  # charge, time, cost
        self.reserved: list[int] = []
        self.ledger: list[list[int]] = []  # time, cost

    @rule(step=st.sampled_from([1, 8, 100, 3_000, 9_990, 10_000, 12_000]))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule(cost=st.integers(0, 30))
    def one_starts_if_it_may(self, cost: int) -> None:
        fits = cost <= self.rate and self.window.fits(cost, self.now)
        charge = self.window.take(cost, self.now)
        assert (charge is not None) == fits
        if charge is not None:
            self.open.append((charge, len(self.ledger), cost))
            self.ledger.append([self.now, cost])
            assert self.spent() <= self.rate, "what starts fits, whatever was settled before"

    @rule(cost=st.integers(0, 30))
    def one_is_held_if_it_may(self, cost: int) -> None:
        if cost <= self.rate and self.window.fits(cost, self.now):
            self.window.reserve(cost, self.now)
            self.reserved.append(cost)
            assert self.spent() <= self.rate

    @precondition(lambda self: self.reserved)
    @rule()
    def a_held_one_starts(self) -> None:
        cost = self.reserved.pop(0)
        self.open.append((self.window.start(cost, self.now), len(self.ledger), cost))
        self.ledger.append([self.now, cost])

    @precondition(lambda self: self.reserved)
    @rule()
    def a_held_one_leaves(self) -> None:
        self.window.release(self.reserved.pop())

    @precondition(lambda self: self.open)
    @rule(data=st.data(), actual=st.integers(0, 60))
    def one_reports_what_it_really_cost(self, data: st.DataObject, actual: int) -> None:
        charge, place, cost = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.window.settle(charge, cost, actual, self.now)
        if actual > cost:
            self.ledger.append([self.now, actual - cost])
        else:
            self.ledger[place][1] = actual

    def spent(self) -> int:
        return sum(self.reserved) + sum(cost for at, cost in self.ledger if at > self.now - self.per_ns)

    @invariant()
    def it_never_counts_less_than_was_spent(self) -> None:
        if hasattr(self, "window"):
            self.window.fits(0, self.now)  # drops the charges that have left the window
            used = self.window.used + self.window.reserved
            # a merged charge stays up to a thousandth of the window longer
            late = sum(
                cost for at, cost in self.ledger if self.now - self.per_ns * 1.001 <= at <= self.now - self.per_ns
            )
            assert self.spent() <= used <= self.spent() + late
            assert self.window.reserved == sum(self.reserved)


TestReconciling = Reconciling.TestCase
TestReconciling.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
