"""CircuitBreaker: transitions, probes and the errors that count."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowrt.policies.circuit_breaker import CircuitBreaker, Transition, is_service_failure
from tests.examples import examples
from tests.policies.in_threads import in_threads
from tests.policies.test_error_classification import EmptyError, botocore_error, group, httpx_error

S = 1_000_000_000


def opened(**settings_: Any) -> CircuitBreaker:
    """A breaker that opened at 1 s, with a cooldown of 10 s."""
    breaker = CircuitBreaker(**{"failure_ratio": 0.5, "window": 10, "cooldown": 10, "minimum": 2, **settings_})
    for _ in range(2):
        breaker.record(1 * S, 1 * S, ok=False)
    assert breaker.state == "open"
    return breaker


def test_breaker_stays_closed_below_the_ratio_or_the_minimum() -> None:
    breaker = CircuitBreaker(failure_ratio=0.5, minimum=10)
    for i in range(9):
        breaker.record(i, i, ok=False)
    assert breaker.closed, "nine failures are no sample of ten"
    breaker = CircuitBreaker(failure_ratio=0.5, minimum=10)
    for i in range(1000):
        breaker.record(i, i, ok=i % 5 != 0)
    assert breaker.closed, "a fifth is less than half"


def test_breaker_opens_at_the_ratio_and_gives_the_reason() -> None:
    breaker = CircuitBreaker(failure_ratio=0.5, window=30, minimum=10)
    for i in range(1, 11):
        breaker.record(i * S, i * S, ok=i <= 5)
    assert list(breaker.transitions) == [Transition(10 * S, "closed", "open", "5 of 10 attempts failed within 30 s")]
    assert not breaker.closed


def test_failures_before_the_window_do_not_count() -> None:
    breaker = CircuitBreaker(failure_ratio=0.5, window=10, minimum=4)
    for i in range(3):
        breaker.record(i, i, ok=False)
    breaker.record(20 * S, 20 * S, ok=False)
    assert breaker.closed
    for i in range(3):
        breaker.record(21 * S + i, 21 * S, ok=False)
    assert not breaker.closed


def test_failure_a_whole_window_ago_does_not_count() -> None:
    for ended_s, state in ((10.9, "open"), (11, "closed")):
        breaker = CircuitBreaker(failure_ratio=0.5, window=10, minimum=2)
        breaker.record(1 * S, 1 * S, ok=False)
        breaker.record(round(ended_s * S), 2 * S, ok=False)
        assert breaker.state == state, ended_s


def test_open_breaker_admits_nothing_before_the_cooldown_ends() -> None:
    breaker = opened()
    assert breaker.wait_ns(1 * S) == 10 * S
    assert breaker.wait_ns(9 * S) == 2 * S
    assert str(breaker.refusal(9 * S)) == (
        "the circuit is open (2 of 2 attempts failed within 10 s): not tried; next try in 2 s"
    )
    assert breaker.wait_ns(11 * S) == 0
    assert breaker.state == "half_open"
    assert "it is being probed" in str(breaker.refusal(11 * S))


def test_half_open_breaker_admits_one_probe_and_closes_on_success() -> None:
    breaker = opened()
    assert breaker.wait_ns(11 * S) == 0
    assert breaker.wait_ns(12 * S) == 9 * S, "until the probe has ended, or is given up"
    breaker.record(13 * S, 11 * S, ok=True)
    assert breaker.closed
    assert breaker.wait_ns(13 * S) == 0
    assert [change.new for change in breaker.transitions] == ["open", "half_open", "closed"]


def test_failed_probe_reopens_the_breaker_for_a_whole_cooldown() -> None:
    breaker = opened()
    assert breaker.wait_ns(11 * S) == 0
    breaker.record(13 * S, 11 * S, ok=False)
    assert breaker.state == "open"
    assert breaker.wait_ns(13 * S) == 10 * S


def test_breaker_closes_only_after_all_probes_succeed() -> None:
    breaker = opened(probes=3)
    assert [breaker.wait_ns(11 * S + i) for i in range(4)] == [0, 0, 0, 10 * S - 3]
    breaker.record(12 * S, 11 * S, ok=True)
    breaker.record(12 * S, 11 * S + 1, ok=True)
    assert breaker.state == "half_open"
    breaker.record(12 * S, 11 * S + 2, ok=False)
    assert breaker.state == "open"


def test_attempt_started_before_the_transition_is_not_a_probe() -> None:
    breaker = opened()
    breaker.record(2 * S, 1 * S, ok=True)
    assert breaker.state == "open"
    assert breaker.wait_ns(11 * S) == 0
    breaker.record(11 * S, 1 * S, ok=True)
    assert breaker.state == "half_open"
    breaker.record(11 * S, 1 * S, ok=False)
    assert breaker.state == "half_open"


def test_cancelled_probe_frees_its_permit() -> None:
    breaker = opened()
    assert breaker.wait_ns(11 * S) == 0
    breaker.record(12 * S, 11 * S, ok=None)
    assert breaker.state == "half_open"
    assert breaker.wait_ns(12 * S) == 0


def test_unrecorded_probe_frees_its_permit_after_a_cooldown() -> None:
    breaker = opened()
    assert breaker.wait_ns(11 * S) == 0
    assert breaker.wait_ns(21 * S) == 0


def test_cancelled_attempt_does_not_count() -> None:
    breaker = CircuitBreaker(minimum=1, failure_ratio=1)
    for i in range(100):
        breaker.record(i, i, ok=None)
    assert breaker.closed


def test_breaker_counts_from_zero_after_closing() -> None:
    breaker = opened()
    breaker.wait_ns(11 * S)
    breaker.record(11 * S, 11 * S, ok=True)
    breaker.record(12 * S, 12 * S, ok=False)
    assert breaker.closed, "one failure is no sample of two"


def test_listener_receives_every_transition_until_it_unsubscribes() -> None:
    breaker = CircuitBreaker(minimum=1)
    heard: list[Transition] = []
    leave = breaker.subscribe(heard.append)
    breaker.record(1, 1, ok=False)
    leave()
    breaker.wait_ns(100 * S)
    assert [change.new for change in heard] == ["open"]
    assert [change.new for change in breaker.transitions] == ["open", "half_open"]


@pytest.mark.parametrize(
    ("error", "against"),
    [
        (httpx_error(500), True),
        (httpx_error(429), True),
        (httpx_error(408), True),
        (httpx_error(404), False),
        (httpx_error(400), False),
        (TimeoutError(), True),
        ("a message", True),
        (None, True),
    ],
)
def test_client_error_does_not_count_against_the_service(error: Any, against: bool) -> None:
    assert is_service_failure(error) == against


class Circuit(RuleBasedStateMachine):
    """Attempts that start and end in any order, and the breaker's invariants."""

    @initialize(minimum=st.integers(1, 5), ratio=st.sampled_from([0.2, 0.5, 1]), probes=st.integers(1, 3))
    def begin(self, minimum: int, ratio: float, probes: int) -> None:
        self.breaker = CircuitBreaker(ratio, window=10, cooldown=5, minimum=minimum, probes=probes)
        self.minimum, self.ratio, self.probes = minimum, ratio, probes
        self.now = 1
        self.running: list[tuple[int, bool]] = []  # start in ns, whether it is a probe
        self.counted: deque[tuple[int, bool]] = deque()
        self.heard: list[Transition] = []
        self.breaker.subscribe(self.heard.append)

    @rule(step=st.sampled_from([1, S // 2, S, 3 * S, 6 * S, 15 * S]))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule()
    def one_asks(self) -> None:
        before = self.breaker.state
        wait = self.breaker.wait_ns(self.now)
        assert 0 <= wait <= 5 * S
        if before == "open" and wait:
            assert self.breaker.state == "open"
            assert self.now < self.heard[-1].at_ns + 5 * S
        if wait == 0:
            self.running.append((self.now, not self.breaker.closed))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), ok=st.sampled_from([True, False, None]))
    def one_ends(self, data: st.DataObject, ok: bool | None) -> None:
        started, probe = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        before, heard = self.breaker.state, len(self.heard)
        if before == "closed" and ok is not None:
            self.counted.append((self.now, ok))
        self.breaker.record(self.now, started, ok)
        after = self.breaker.state
        if before == "open":
            assert after == "open", "an earlier attempt neither closes the breaker nor prolongs the cooldown"
        if before == "closed":
            recent = [good for at, good in self.counted if at >= self.now - 9 * S]
            # the window moves by a slice of 1 s: whether these are still in it depends on when slices began
            older = [good for at, good in self.counted if self.now - 11 * S < at < self.now - 9 * S]
            if older:
                assert after == "closed" or len(recent) + len(older) >= self.minimum
            else:
                too_many = len(recent) >= self.minimum and recent.count(False) >= self.ratio * len(recent)
                assert (after == "open") == (ok is False and too_many)
        if before == "half_open" and after != before:
            assert probe
            assert after == ("closed" if ok else "open")
        if len(self.heard) > heard:
            self.counted.clear()

    @invariant()
    def its_words_agree(self) -> None:
        if not hasattr(self, "breaker"):
            return
        assert self.breaker.closed == (self.breaker.state == "closed")
        assert list(self.breaker.transitions) == self.heard
        for sooner, later in itertools.pairwise(self.heard):
            assert sooner.new == later.old
            if later.new == "half_open":
                assert later.at_ns >= sooner.at_ns + 5 * S, "it cools down for its time"
        if self.breaker.state == "half_open":
            assert len(self.breaker._probes_started) + self.breaker._probes_succeeded <= self.probes


TestCircuit = Circuit.TestCase
TestCircuit.settings = settings(max_examples=examples(200), stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (EmptyError(status=404), False),
        (EmptyError(), True),
        (botocore_error(404), False),
        (botocore_error(400, "ThrottlingException"), True),
        (group(httpx_error(404), group(httpx_error(400))), False),
        (group(httpx_error(404), httpx_error(503)), True),
        (group(httpx_error(404), ConnectionError()), True),
        (asyncio.CancelledError(), True),
    ],
)
def test_service_failure_of_other_errors_than_plain_ones(error: Any, counts: bool) -> None:
    assert is_service_failure(error) == counts


def test_breaker_that_closes_wakes_a_waiter_on_another_thread() -> None:
    breaker = CircuitBreaker(0.5, 10, 3600, minimum=1, open="pause")
    breaker.record(1, 1, ok=False)
    probe_ns = 1 + 3600 * 10**9
    assert breaker.wait_ns(probe_ns) == 0
    waiting = threading.Event()
    seen: list[tuple[str, int]] = []

    async def wait() -> None:
        breaker.subscribe(lambda change: seen.append((change.new, threading.get_ident())))
        asyncio.get_running_loop().call_soon(waiting.set)
        await breaker.wait(3600 * 10**9)
        async with asyncio.timeout(60):
            while not seen:  # the notification may follow the waiter
                await asyncio.sleep(0.001)

    thread = threading.Thread(target=asyncio.run, args=(wait(),), kwargs={"debug": True})
    thread.start()
    ident = thread.ident
    assert waiting.wait(60)
    breaker.record(probe_ns + 1, probe_ns, ok=True)
    thread.join(60)
    assert not thread.is_alive()
    assert seen == [("closed", ident)]


def test_listener_on_a_closed_loop_is_not_called() -> None:
    breaker = CircuitBreaker(0.5, 10, 10, minimum=1)
    seen: list[str] = []

    async def subscribe() -> None:
        breaker.subscribe(lambda change: seen.append(change.new))

    asyncio.run(subscribe())
    breaker.record(1, 1, ok=False)
    assert (breaker.state, seen) == ("open", [])


def test_listener_that_unsubscribed_meanwhile_is_not_called() -> None:
    breaker = CircuitBreaker(0.5, 10, 10, minimum=1)
    seen: list[str] = []

    async def subscribe() -> Callable[[], None]:
        return breaker.subscribe(lambda change: seen.append(change.new))

    with asyncio.Runner() as runner:
        leave = runner.run(subscribe())
        breaker.record(1, 1, ok=False)  # outside of the loop, which is to call the listener once it runs
        leave()
        runner.run(asyncio.sleep(0))
    assert seen == []


def test_threads_that_share_a_breaker_keep_its_transitions_in_order() -> None:
    breaker = CircuitBreaker(0.5, 0.00005, 0.000001, minimum=4, probes=2)
    clock = itertools.count(1, 700)

    def attempts() -> None:
        for number in range(8_000):
            now = next(clock)
            if not breaker.closed and breaker.wait_ns(now):
                continue
            breaker.record(now, now, ok=(True, False, False, None)[number % 4])

    in_threads(attempts)
    states = [(change.old, change.new) for change in breaker.transitions]
    assert len(states) > 20
    assert all(earlier[1] == later[0] for earlier, later in itertools.pairwise(states))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"failure_ratio": 0}, "failure_ratio must be a number above 0 and at most 1, not 0"),
        ({"failure_ratio": 1.1}, "failure_ratio must be"),
        ({"failure_ratio": math.nan}, "failure_ratio must be"),
        ({"failure_ratio": True}, "failure_ratio must be"),
        ({"window": 0}, "window must be a number of seconds above 0, not 0"),
        ({"cooldown": -1}, "cooldown must be"),
        ({"minimum": 0}, "minimum must be an integer of at least 1, not 0"),
        ({"probes": 0}, "probes must be"),
        ({"open": "explode"}, "open must be 'fail' or 'pause', not 'explode'"),
        ({"counts": 5}, "counts must be a function of the error"),
    ],
)
def test_setting_out_of_range_is_refused_with_value_and_fix(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CircuitBreaker(**wrong)
