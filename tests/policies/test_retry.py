"""RetryPolicy: the decision, the wait and the budget."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from flowrt.model.node import NodeResult
from flowrt.policies.circuit_breaker import CircuitBreaker
from flowrt.policies.rate_limit import CostTooHighError
from flowrt.policies.retry import TRANSIENT_STATUS_CODES, Retries, Retry, RetryPolicy, RetryState
from tests.policies.simulate import seeded
from tests.policies.test_error_classification import WALL_S, EmptyError, FailureError, group, httpx_error

MS = 1_000_000


def retries(policy: RetryPolicy, draw: float = 1.0) -> Retries:
    """Retries whose jitter is always this share of the ceiling."""
    return policy.begin(10, random=lambda: draw, wall=lambda: WALL_S)


def decide(policy: RetryPolicy, outcome: Any, attempt: int = 1, **how: Any) -> Retry | None:
    return retries(policy).decide(outcome, attempt, 1000, **how)


def test_ceilings_double_up_to_the_cap() -> None:
    policy = RetryPolicy(attempts=10, base=0.1, cap=1.0)
    waits = [decide(policy, ValueError(), attempt) for attempt in range(1, 10)]
    assert [wait and wait.delay_ns // MS for wait in waits] == [100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000]


@given(st.integers(1, 10**6), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(1, 1e3), st.floats(0, 1))
def test_wait_is_between_zero_and_its_ceiling(
    attempt: int, base: float, more: float, factor: float, draw: float
) -> None:
    policy = RetryPolicy(attempts=attempt + 1, base=base, cap=base + more, factor=factor)
    retry = retries(policy, draw).decide(ValueError(), attempt, 1)
    assert retry is not None
    assert 0 <= retry.delay_ns <= round(policy.ceiling_s(attempt) * 1e9) <= round(policy.cap * 1e9)
    assert policy.ceiling_s(attempt + 1) >= policy.ceiling_s(attempt)


def test_jitter_covers_the_whole_range() -> None:
    rng = seeded(1)
    live = RetryPolicy(base=1.0, budget=None).begin(random=rng.random)
    waits = sorted(r.delay_ns / 1e9 for _ in range(1000) if (r := live.decide(ValueError(), 1, 1)))
    assert waits[0] < 0.02
    assert waits[-1] > 0.98
    assert waits[500] == pytest.approx(0.5, abs=0.06)


def test_last_attempt_is_not_retried() -> None:
    policy = RetryPolicy(attempts=3)
    assert [decide(policy, ValueError(), attempt) is None for attempt in (1, 2, 3, 4)] == [False, False, True, True]
    assert decide(RetryPolicy(attempts=1), ValueError()) is None


class MineError(ConnectionError):
    pass


@pytest.mark.parametrize(
    ("on", "exc", "again"),
    [
        (Exception, ValueError(), True),
        (ConnectionError, MineError(), True),
        ((KeyError, ConnectionError), MineError(), True),
        ([KeyError], MineError(), False),
        ((), ValueError(), False),
        (lambda exc: "try" in str(exc), ValueError("try again"), True),
        (lambda exc: "try" in str(exc), ValueError("give up"), False),
        (Exception, EmptyError(), True),
        (Exception, asyncio.CancelledError(), True),
        (asyncio.CancelledError, asyncio.CancelledError(), True),
        ((KeyError, asyncio.CancelledError), asyncio.CancelledError(), True),
        ((KeyError, asyncio.CancelledError), ValueError(), False),
        (ConnectionError, asyncio.CancelledError(), False),
        ((), asyncio.CancelledError(), False),
        (lambda exc: isinstance(exc, asyncio.CancelledError), asyncio.CancelledError(), True),
        (lambda exc: False, asyncio.CancelledError(), False),
        (Exception, KeyboardInterrupt(), False),
        (lambda exc: True, KeyboardInterrupt(), False),
        (ConnectionError, group(MineError(), TimeoutError()), False),
        ((ConnectionError, TimeoutError), group(MineError(), group(TimeoutError())), True),
        (Exception, group(MineError(), httpx_error(404)), False),
        (Exception, group(MineError(), httpx_error(503)), True),
        (ExceptionGroup, group(httpx_error(404)), True),
        (lambda exc: isinstance(exc, ExceptionGroup), group(KeyError()), True),
        (Exception, group(CostTooHighError("too much")), False),
        (Exception, CostTooHighError("too much"), False),
        (Exception, CircuitBreaker().refusal(0), False),
    ],
)
def test_on_decides_by_type_or_function(on: Any, exc: BaseException, again: bool) -> None:
    assert (decide(RetryPolicy(on=on), exc) is not None) == again


@pytest.mark.parametrize(
    ("codes", "status", "again"),
    [
        (TRANSIENT_STATUS_CODES, 503, True),
        (TRANSIENT_STATUS_CODES, 404, False),
        ((404,), 404, True),
        ((404,), 503, False),
        (None, 404, True),
        ((), 503, False),
    ],
)
def test_status_decides_about_an_exception_that_carries_one(codes: Any, status: int, again: bool) -> None:
    assert (decide(RetryPolicy(status_codes=codes), httpx_error(status)) is not None) == again


def test_group_of_shared_groups_is_searched_once() -> None:
    errors: Exception = MineError()
    for _ in range(100):
        errors = group(errors, errors)
    assert decide(RetryPolicy(on=ConnectionError), errors) is not None


def test_group_with_a_throttled_request_is_rate_limited() -> None:
    retry = decide(RetryPolicy(base=0.0, cap=0.0), group(MineError(), httpx_error(429, {"Retry-After": "3"})))
    assert retry is not None
    assert (retry.delay_ns, retry.reason) == (3_000 * MS, "rate_limited")


@pytest.mark.parametrize("success", [False, True])
def test_returned_failure_with_a_false_exception_is_judged_by_it(success: bool) -> None:
    returned = NodeResult(success, error=EmptyError(status=404))
    assert decide(RetryPolicy(), returned) is None
    assert decide(RetryPolicy(on=KeyError), NodeResult(False, error=EmptyError())) is None
    assert decide(RetryPolicy(), NodeResult(False, error=EmptyError(status=503))) is not None


def test_stray_cancellation_is_retried_by_default_without_extra_jitter() -> None:
    retry = decide(RetryPolicy(base=0.2), asyncio.CancelledError("the task was cancelled"))
    assert retry is not None
    assert (retry.delay_ns, retry.reason) == (200 * MS, "error")


def test_transient_status_does_not_override_the_type() -> None:
    assert decide(RetryPolicy(on=ConnectionError), httpx_error(503)) is None


def test_on_function_overrides_the_status() -> None:
    assert decide(RetryPolicy(on=lambda exc: True), httpx_error(404)) is not None


@pytest.mark.parametrize(
    ("result", "when", "on", "again"),
    [
        (NodeResult(False, error="no"), None, Exception, True),
        (NodeResult(False, error="no"), None, ValueError, False),
        (NodeResult(False, error="no"), None, lambda exc: True, False),
        (NodeResult(False, error=ValueError()), None, ValueError, True),
        (NodeResult(False, error=httpx_error(404)), None, Exception, False),
        (NodeResult(False, error="no"), lambda result: False, Exception, False),
        (NodeResult(True, output=""), lambda result: not result.output, Exception, True),
        (NodeResult(True, output="x"), lambda result: not result.output, Exception, False),
        (NodeResult(True, output=""), None, Exception, False),
        ("not a NodeResult", None, Exception, True),
    ],
)
def test_returned_failures_are_retried_too(result: Any, when: Any, on: Any, again: bool) -> None:
    assert (decide(RetryPolicy(when=when, on=on), result) is not None) == again


def test_successes_are_judged_only_with_when() -> None:
    assert not retries(RetryPolicy()).judges_successes
    assert retries(RetryPolicy(when=bool)).judges_successes


def test_when_is_not_called_for_exceptions() -> None:
    assert decide(RetryPolicy(when=lambda result: result.output == ""), ValueError()) is not None


def test_timed_out_attempt_is_retried_unless_disabled() -> None:
    assert decide(RetryPolicy(on=ValueError), TimeoutError(), timed_out=True) == Retry(100 * MS, "timeout")
    assert decide(RetryPolicy(timeouts=False), TimeoutError(), timed_out=True) is None
    assert decide(RetryPolicy(timeouts=False), TimeoutError()) is not None, "the node's own is an error like others"
    late = FailureError(retry_after=9_999)  # raised while the attempt was cancelled, so it does not count
    assert decide(RetryPolicy(), late, timed_out=True) == Retry(100 * MS, "timeout")


@pytest.mark.parametrize(
    ("exc", "reason"),
    [
        (ValueError(), "error"),
        (httpx.ReadTimeout("late"), "timeout"),
        (httpx_error(429), "rate_limited"),
        (httpx_error(503, {"Retry-After": "1"}), "rate_limited"),
        (NodeResult(False, error="no"), "error"),
    ],
)
def test_reason_is_a_label_of_the_metrics(exc: Any, reason: str) -> None:
    retry = decide(RetryPolicy(), exc)
    assert retry is not None
    assert retry.reason == reason


def test_retry_after_is_waited_plus_jitter() -> None:
    exc = httpx_error(429, {"Retry-After": "20"})
    for draw, waited in ((0.0, 20_000), (1.0, 20_100)):
        retry = retries(RetryPolicy(cap=5), draw).decide(exc, 1, 1)
        assert retry == Retry(waited * MS, "rate_limited"), "its word is not capped by ours"


@pytest.mark.parametrize(
    ("where", "waited_ms"),
    [
        ("retry_after", 2_000),
        ("wait_for", 3_000),
        (lambda exc: exc.wait_for + 1, 4_000),
        (lambda exc: None, 0),
        (None, 0),
    ],
)
def test_source_of_retry_after_is_configurable(where: Any, waited_ms: int) -> None:
    policy = RetryPolicy(base=0, retry_after=where)
    retry = decide(policy, FailureError(retry_after=2, wait_for=3))
    assert retry is not None
    assert retry.delay_ns == waited_ms * MS


def test_date_in_retry_after_is_compared_with_the_wall_clock() -> None:
    policy = RetryPolicy(base=0)
    retry = decide(policy, httpx_error(503, {"Retry-After": "Thu, 01 Jan 2026 12:01:30 GMT"}))
    assert retry == Retry(90_000 * MS, "rate_limited")


def test_retry_after_beyond_the_maximum_fails_at_once() -> None:
    policy = RetryPolicy(base=0, retry_after_max=60)
    assert decide(policy, FailureError(retry_after=60)) is not None
    assert decide(policy, FailureError(retry_after=61)) is None


@given(st.floats(0, 2), st.integers(0, 50), st.lists(st.booleans(), max_size=300))
def test_retries_never_exceed_the_budget(budget: float, minimum: int, failing: list[bool]) -> None:
    live = RetryPolicy(budget=budget, budget_minimum=minimum).begin()
    for first_attempts, fails in enumerate(failing, start=1):
        before = live.spent
        allowed = before < minimum + budget * first_attempts
        if fails:
            assert (live.decide(ValueError(), 1, first_attempts) is not None) == allowed
    assert live.spent <= math.ceil(minimum + budget * len(failing))
    assert live.spent + live.refused == sum(failing)


def test_retry_storm_stops_at_the_budget() -> None:
    live = RetryPolicy(attempts=100).begin()
    attempts = 0
    for first_attempts in range(1, 10_001):
        attempt = 1
        while live.decide(ConnectionError(), attempt, first_attempts):
            attempt += 1
        attempts += attempt
    assert attempts <= 10_000 * 1.2 + 100, "and not a hundred times as many"
    assert repr(live) == f"<Retries: {live.spent} spent, {live.refused} refused>"


def test_small_batch_is_not_limited_by_the_budget() -> None:
    live = RetryPolicy(attempts=3).begin()
    assert all(live.decide(ValueError(), attempt, 50) for _ in range(50) for attempt in (1, 2))


def test_refused_retry_costs_no_budget() -> None:
    live = retries(RetryPolicy(on=KeyError))
    assert live.decide(ValueError(), 1, 1) is None
    assert (live.spent, live.refused) == (0, 0)


def test_wait_strategy_receives_a_tenacity_like_state() -> None:
    seen: list[RetryState] = []

    def wait(state: RetryState) -> float:
        seen.append(state)
        return 0.5 * state.attempt_number

    error = ValueError("x")
    retry = decide(RetryPolicy(attempts=5, wait=wait), error, 3)
    assert retry == Retry(1_500 * MS, "error")
    outcome = seen[0].outcome
    assert (outcome.failed, outcome.exception()) == (True, error)
    with pytest.raises(ValueError, match="x"):
        outcome.result()
    result = NodeResult(False, error="no")
    decide(RetryPolicy(wait=wait), result)
    assert (seen[1].outcome.failed, seen[1].outcome.exception(), seen[1].outcome.result()) == (False, None, result)


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, None, "1"])
def test_wait_strategy_without_seconds_raises_value_error(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must return a number of seconds"):
        decide(RetryPolicy(wait=lambda state: wrong), ValueError())


def test_waiting_limit_scales_with_the_concurrency() -> None:
    assert RetryPolicy().begin(10).waiting == 1000
    assert RetryPolicy().begin(500).waiting == 5000
    assert RetryPolicy(waiting=7).begin(500).waiting == 7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attempts": 0}, "attempts must be an integer of at least 1, not 0"),
        ({"attempts": -1}, "attempts must be"),
        ({"attempts": True}, "attempts must be"),
        ({"attempts": 2.0}, "attempts must be"),
        ({"base": -0.1}, "base must be a number of seconds of at least 0, not -0.1"),
        ({"base": math.nan}, "base must be"),
        ({"cap": math.inf}, "cap must be"),
        ({"base": 2, "cap": 1}, "cap must be at least base=2, not 1: it bounds the waits"),
        ({"factor": 0.5}, "factor must be a number of at least 1, not 0.5"),
        ({"on": BaseException}, "on must hold types of Exception or CancelledError, not"),
        ({"on": (ValueError, KeyboardInterrupt)}, "not .*KeyboardInterrupt.*: KeyboardInterrupt, SystemExit"),
        ({"on": [ValueError()]}, "on must hold types of Exception"),
        ({"on": 5}, "on must be an exception type, several, or a function"),
        ({"timeouts": 1}, "timeouts must be True or False, not 1"),
        ({"status_codes": 503}, "status_codes must be a collection"),
        ({"status_codes": "503"}, "status_codes must be a collection"),
        ({"status_codes": [5]}, "status_codes must be HTTP statuses from 100 to 599, not 5"),
        ({"status_codes": [True]}, "status_codes must be HTTP statuses"),
        ({"when": 5}, "when must be a function or None, not 5"),
        ({"wait": 5}, "wait must be a function or None, not 5"),
        ({"retry_after": "Retry-After"}, "retry_after must be an attribute's name"),
        ({"retry_after": 5}, "retry_after must be an attribute's name"),
        ({"retry_after_max": -1}, "retry_after_max must be"),
        ({"budget": -0.1}, "budget must be a number .*None for no limit.* of at least 0, not -0.1"),
        ({"budget": math.inf}, "budget must be"),
        ({"budget_minimum": -1}, "budget_minimum must be an integer of at least 0, not -1"),
        ({"waiting": 0}, "waiting must be an integer of at least 1, not 0"),
    ],
)
def test_setting_out_of_range_is_refused_with_value_and_fix(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetryPolicy(**wrong)


@pytest.mark.parametrize(
    ("strategy", "waits"),
    [
        (tenacity.wait_fixed(2), [2.0, 2.0, 2.0]),
        (tenacity.wait_exponential(multiplier=1, max=3), [1.0, 2.0, 3.0]),
        (tenacity.wait_fixed(1) + tenacity.wait_incrementing(0, 5), [1.0, 6.0, 11.0]),
    ],
)
def test_strategies_of_tenacity_work_unchanged(strategy: Any, waits: list[float]) -> None:
    retries = RetryPolicy(9, wait=strategy).begin()
    decided = [retries.decide(ConnectionError(), attempt, 10) for attempt in (1, 2, 3)]
    assert [retry.delay_ns / 1e9 for retry in decided if retry is not None] == waits
