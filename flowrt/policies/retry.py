"""RetryPolicy: which failed attempts are retried, and after how long."""

from __future__ import annotations

import random
import time
from asyncio import CancelledError
from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, get_args

from flowrt._util.validation import check_count, check_number, number_or_none, seconds_to_ns
from flowrt.model.result import ItemFailedError
from flowrt.policies.circuit_breaker import CircuitOpenError
from flowrt.policies.error_classification import (
    Kind,
    has_details,
    kind_of,
    kind_of_plain_type,
    leaves_of,
    parse_retry_after,
    retry_after_of,
    status_of,
)
from flowrt.policies.rate_limit import CostTooHighError

__all__ = ["TRANSIENT_STATUS_CODES", "Retries", "Retry", "RetryPolicy", "RetryState"]

TRANSIENT_STATUS_CODES: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""HTTP statuses that a retry may cure: timeouts, throttling, a failing service or proxy."""

_FINAL: Final = (CircuitOpenError, CostTooHighError)  # flowrt's own refusals, which a retry would only repeat

On = type[BaseException] | Collection[type[BaseException]] | Callable[[BaseException], bool]


class Retry(NamedTuple):
    """The decision to retry.

    Attributes:
        delay_ns: Wait before the next attempt, in nanoseconds.
        reason: Why the attempt failed: `error`, `timeout` or `rate_limited`.
    """

    delay_ns: int
    reason: Kind


_WITHOUT_WAIT: Final[dict[Kind, Retry]] = {kind: Retry(0, kind) for kind in get_args(Kind)}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which failed attempts are retried, how often and after how long.

    The wait is random between 0 and a ceiling that grows exponentially ("full jitter"), so that items that failed
    together do not return together. If the service names a wait, the jitter comes on top of that. An exception that
    carries an HTTP status is retried only for statuses that another attempt may cure: a 404 fails at once.

    Args:
        attempts: Most attempts per item, the first one included; 1 disables retries.
        base: Ceiling of the first wait, in seconds.
        cap: Upper bound of all ceilings, in seconds.
        factor: Growth of the ceiling from one attempt to the next.
        on: The exceptions to retry: a type, several types, or a function of the exception, which then decides alone.
            `Exception`, the default, includes cancellations of the item that the batch did not ask for
            (`asyncio.CancelledError`). An ExceptionGroup is retried if each exception in it is, or if `on` names a
            type of group. A node that returns a failure with a message and no exception counts as an
            `ItemFailedError`.
        timeouts: True to retry attempts that exceeded `item_timeout`.
        status_codes: The HTTP statuses to retry; None to ignore statuses.
        when: A function of every NodeResult that a node returns, successes included: True retries, False does not. An
            item whose result is still unwanted after its last attempt keeps that result.
        retry_after: Where an exception says how long to wait: the name of its attribute (its headers are read, too),
            or a function that returns seconds, a date or None. None to ignore such waits.
        retry_after_max: If the service asks for a longer wait than this, in seconds, the item fails at once.
        budget: Retries that a batch may spend, as a share of its first attempts: when everything fails, retries only
            add load. None for no limit.
        budget_minimum: Retries that are free, so that a small batch is not limited.
        waiting: Items that may wait for a retry before the batch starts no new items; by default 10 times the
            concurrency, at least 1,000.
        wait: A wait strategy in place of the exponential one: a function of a `RetryState` that returns seconds.
            Strategies of tenacity work unchanged.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> policy = RetryPolicy(attempts=5, base=0.2, on=(ConnectionError, TimeoutError))
        >>> [policy.ceiling_s(attempt) for attempt in (1, 2, 3)]
        [0.2, 0.4, 0.8]
    """

    attempts: int = 3
    _: KW_ONLY
    base: float = 0.1
    cap: float = 30.0
    factor: float = 2.0
    on: On = Exception
    timeouts: bool = True
    status_codes: Collection[int] | None = TRANSIENT_STATUS_CODES
    when: Callable[[Any], bool] | None = None
    retry_after: str | Callable[[BaseException], Any] | None = "retry_after"
    retry_after_max: float = 3600.0
    budget: float | None = 0.2
    budget_minimum: int = 100
    waiting: int | None = None
    wait: Callable[[RetryState], float] | None = None

    def __post_init__(self) -> None:
        check_count("attempts", self.attempts)
        check_number("base", self.base, unit="of seconds")
        check_number("cap", self.cap, unit="of seconds")
        if self.cap < self.base:
            raise ValueError(f"cap must be at least base={self.base!r}, not {self.cap!r}: it bounds the waits")
        check_number("factor", self.factor, least=1)
        check_number("retry_after_max", self.retry_after_max, unit="of seconds")
        if self.budget is not None:
            check_number("budget", self.budget, unit="(retries per first attempt; None for no limit)")
        check_count("budget_minimum", self.budget_minimum, least=0)
        if self.waiting is not None:
            check_count("waiting", self.waiting)
        if not isinstance(self.timeouts, bool):
            raise ValueError(f"timeouts must be True or False, not {self.timeouts!r}")  # noqa: TRY004  # as the others
        for name in ("when", "wait"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ValueError(f"{name} must be a function or None, not {value!r}")
        if self.retry_after is not None and not callable(self.retry_after) and not _is_name(self.retry_after):
            raise ValueError(f"retry_after must be an attribute's name, a function or None, not {self.retry_after!r}")
        object.__setattr__(self, "on", _checked_on(self.on))
        if self.status_codes is not None:
            object.__setattr__(self, "status_codes", _checked_codes(self.status_codes))

    def ceiling_s(self, attempt: int) -> float:
        """Return the longest random wait after an attempt, in seconds.

        Args:
            attempt: 1 for the first attempt.
        """
        try:
            return min(self.cap, self.base * self.factor ** (attempt - 1))
        except OverflowError:
            return self.cap

    def begin(
        self,
        max_concurrency: int = 1,
        *,
        random: Callable[[], float] = random.random,
        wall: Callable[[], float] = time.time,
    ) -> Retries:
        """Create the state of this policy for one batch.

        Args:
            max_concurrency: The batch's concurrency limit.
            random: Returns random numbers from 0 to 1.
            wall: Returns the time since 1970 in seconds, for services that name a date.
        """
        return Retries(self, max_concurrency, random=random, wall=wall)


class RetryState:
    """Argument of a wait strategy, with the attributes that tenacity's strategies read.

    Attributes:
        attempt_number: Number of attempts so far.
        outcome: The last attempt: `outcome.failed`, `outcome.exception()` and `outcome.result()`.
    """

    __slots__ = ("attempt_number", "outcome")

    def __init__(self, attempt_number: int, outcome: Any) -> None:
        self.attempt_number = attempt_number
        self.outcome = _Outcome(outcome)


class _Outcome:
    __slots__ = ("_value", "failed")

    def __init__(self, value: Any) -> None:
        self._value = value
        self.failed = isinstance(value, BaseException)

    def exception(self) -> BaseException | None:
        return self._value if self.failed else None

    def result(self) -> Any:
        if self.failed:
            raise self._value
        return self._value


class Retries:
    """State of a batch's retries, created by `RetryPolicy.begin`.

    Attributes:
        policy: The policy.
        waiting: Items that may wait for a retry.
        judges_successes: True if `decide` must see successes, too.
        spent: Retries granted so far.
        refused: Retries refused so far because the budget was spent.
    """

    __slots__ = ("_random", "_types", "_wall", "judges_successes", "policy", "refused", "spent", "waiting")

    def __init__(
        self, policy: RetryPolicy, max_concurrency: int, *, random: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self.policy = policy
        self.waiting = max(1000, 10 * max_concurrency) if policy.waiting is None else policy.waiting
        self.judges_successes = policy.when is not None
        self.spent = 0
        self.refused = 0
        self._random = random
        self._wall = wall
        # for exceptions that have no status and name no wait; None if more than their type may count
        reads_types = isinstance(policy.on, tuple) and policy.retry_after in (None, "retry_after")
        self._types: Any = policy.on if reads_types else None

    def decide(self, outcome: Any, attempt: int, first_attempts: int, *, timed_out: bool = False) -> Retry | None:
        """Decide if an item is retried after an attempt, and when; a granted retry counts against the budget.

        Args:
            outcome: The exception that the node raised, or the NodeResult that it returned.
            attempt: Attempts of the item so far, this one included.
            first_attempts: Items that the batch has started.
            timed_out: True if the attempt was stopped at its timeout.

        Returns:
            The decision, or None if the outcome is final.

        Raises:
            Exception: Any exception of a function of the policy (`on`, `when`, `retry_after`, `wait`).
            ValueError: `wait` returned something other than a number of seconds.
        """
        policy = self.policy
        if attempt >= policy.attempts:
            return None
        kind: Any = type(outcome)
        reason = None if timed_out or self._types is None else _reason_of_type(kind, self._types)
        if reason is None or (outcome.__dict__ and has_details(outcome)):
            judged = self._judge(outcome, timed_out=timed_out)
            if judged is None:
                return None
            reason, after_s = judged
        elif reason == "unwanted":
            return None
        else:
            after_s = 0.0
        if policy.budget is not None and self.spent >= policy.budget_minimum + policy.budget * first_attempts:
            self.refused += 1
            return None
        delay_s = self._wait_s(outcome, attempt) + after_s
        self.spent += 1
        return Retry(seconds_to_ns(delay_s), reason) if delay_s else _WITHOUT_WAIT[reason]

    def _judge(self, outcome: Any, *, timed_out: bool) -> tuple[Kind, float] | None:
        """Return why an attempt failed and the wait that the service asks for, in seconds; None if it is final."""
        policy = self.policy
        raised = isinstance(outcome, BaseException)
        error = outcome if raised else getattr(outcome, "error", None)
        exc = error if isinstance(error, BaseException) else None
        if timed_out:
            return ("timeout", 0.0) if policy.timeouts else None
        if not raised and policy.when is not None:
            if not policy.when(outcome):
                return None
        elif (not raised and getattr(outcome, "success", False)) or not self._wants(exc):
            return None
        if exc is None:
            return "error", 0.0
        after_s = self._asked_to_wait(exc)
        if after_s is not None and after_s > policy.retry_after_max:
            return None
        return kind_of(exc, retry_after=after_s), after_s or 0.0

    def _wants(self, exc: BaseException | None) -> bool:
        on, codes = self.policy.on, self.policy.status_codes
        if exc is None:
            return isinstance(on, tuple) and issubclass(ItemFailedError, on)
        if isinstance(exc, _FINAL) or not isinstance(exc, (Exception, CancelledError)):
            return False
        if not isinstance(on, tuple):
            return bool(on(exc))  # type: ignore[operator]  # a tuple of types or a function, by __post_init__
        if isinstance(exc, BaseExceptionGroup):
            named = tuple(cls for cls in on if issubclass(cls, BaseExceptionGroup))
            return isinstance(exc, named) or all(self._wants(leaf) for leaf in leaves_of(exc))
        if not _is_wanted(type(exc), on):
            return False
        status = None if codes is None else status_of(exc)
        return status is None or codes is None or status in codes

    def _asked_to_wait(self, exc: BaseException) -> float | None:
        where = self.policy.retry_after
        if where is None:
            return None
        if isinstance(where, str):
            return retry_after_of(exc, where, self._wall())
        return parse_retry_after(where(exc), self._wall())

    def _wait_s(self, outcome: Any, attempt: int) -> float:
        policy = self.policy
        wait = policy.wait
        if wait is None:
            return self._random() * policy.ceiling_s(attempt)
        seconds = number_or_none(wait(RetryState(attempt, outcome)))
        if seconds is None:
            raise ValueError(f"the wait strategy {wait!r} must return a number of seconds of at least 0")
        return seconds

    def __repr__(self) -> str:
        return f"<Retries: {self.spent} spent, {self.refused} refused>"


@lru_cache(maxsize=256)
def _reason_of_type(kind: type[Any], on: tuple[type[BaseException], ...]) -> Kind | Literal["unwanted"] | None:
    """Return why an attempt failed that raised an exception of a type, or that it is not retried.

    Returns:
        None if more than the type counts.
    """
    reason = kind_of_plain_type(kind)
    return reason if reason is None or _is_wanted(kind, on) else "unwanted"


def _is_wanted(kind: type[BaseException], on: tuple[type[BaseException], ...]) -> bool:
    """Return whether exceptions of a type that is no group's are retried if nothing but their type counts."""
    if issubclass(kind, _FINAL) or not issubclass(kind, (Exception, CancelledError)):
        return False
    return issubclass(kind, on) or (issubclass(kind, CancelledError) and Exception in on)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _checked_on(on: Any) -> Any:
    types = (on,) if isinstance(on, type) else tuple(on) if isinstance(on, (tuple, list, set, frozenset)) else None
    if types is None:
        if callable(on):
            return on
        raise ValueError(f"on must be an exception type, several, or a function of the exception, not {on!r}")
    for cls in types:
        if not isinstance(cls, type) or not issubclass(cls, (Exception, CancelledError)):
            raise ValueError(  # noqa: TRY004  # as the others
                f"on must hold types of Exception or CancelledError, not {cls!r}: KeyboardInterrupt, SystemExit and "
                "the like end the program"
            )
    return types


def _checked_codes(codes: Any) -> frozenset[int]:
    if isinstance(codes, (str, bytes)) or not isinstance(codes, Collection):
        raise ValueError(  # noqa: TRY004  # as the others
            f"status_codes must be a collection of HTTP statuses, like (429, 503), not {codes!r}"
        )
    for code in codes:
        if isinstance(code, bool) or not isinstance(code, int) or not 100 <= code <= 599:
            raise ValueError(f"status_codes must be HTTP statuses from 100 to 599, not {code!r}")
    return frozenset(codes)
