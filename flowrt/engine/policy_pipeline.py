"""Policy pipeline: the policies that an attempt passes before it starts and that learn from its outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flowrt._util.clock import Clock
from flowrt.attribution.ledger import RATE_LIMIT
from flowrt.engine.outcome import RejectedInputError, settle_exception
from flowrt.engine.pause import Pause
from flowrt.model import BatchRecord, ItemRecord, Rejected
from flowrt.model.node import NEVER_RUN
from flowrt.policies.adaptive_concurrency import LimitController, Outcome
from flowrt.policies.circuit_breaker import CircuitBreaker
from flowrt.policies.error_classification import kind_of
from flowrt.policies.rate_limiter import RateLimiter, Ticket
from flowrt.policies.retry import Retries, Retry

__all__ = ["PolicyPipeline"]

_OUTCOMES: Final[dict[str, Outcome]] = {"rate_limited": "throttled", "timeout": "timed_out", "error": "failed"}


class PolicyPipeline:
    """Policies around the attempts of one batch.

    Args:
        batch: The batch's record.
        clock: The batch's clock.
        pause: Holds back items that wait for a policy.
        rate_limiter: The rate limits, or None.
        breaker: The node's circuit breaker, or None.
        retries: Decides on further attempts, or None.
        controller: Adapts the concurrency limit, or None.
        set_limit: Called with each new limit of the controller.

    Attributes:
        holds_back: True if a policy may delay an attempt, so that `enter` must be called before each.
        learns: True if a policy learns from successes too, so that `leave` must be called after each attempt; if
            False, only after attempts that did not end ok.
        retries: As the argument.
    """

    __slots__ = (
        "_batch",
        "_breaker",
        "_clock",
        "_controller",
        "_pause",
        "_rate_limiter",
        "_set_limit",
        "holds_back",
        "learns",
        "retries",
    )

    def __init__(
        self,
        batch: BatchRecord,
        clock: Clock,
        pause: Pause,
        *,
        rate_limiter: RateLimiter | None = None,
        breaker: CircuitBreaker | None = None,
        retries: Retries | None = None,
        controller: LimitController | None = None,
        set_limit: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._batch = batch
        self._clock = clock
        self._pause = pause
        self._rate_limiter = rate_limiter
        self._breaker = breaker
        self._controller = controller
        self._set_limit = set_limit
        self.retries = retries
        self.holds_back = rate_limiter is not None or breaker is not None
        judges = retries is not None and retries.judges_successes
        self.learns = judges or any(each is not None for each in (rate_limiter, breaker, controller))

    def enter(self, item: ItemRecord) -> bool:
        """Start an attempt if no policy delays it.

        Returns:
            True if the attempt has started; False if the caller must await `wait(item)` first.

        Raises:
            CircuitOpenError: The circuit is open, and its policy is to fail items.
            CostTooHighError: The item costs more than a rate limit ever admits.
            Exception: What a rate limit's cost function raised.
        """
        breaker, rate_limiter = self._breaker, self._rate_limiter
        if type(item.input_data) is Rejected:  # no attempt is made, so it costs nothing and is no probe
            item.started_ns = item.pulled_ns
            return True
        if breaker is not None and not breaker.closed:
            return False
        if rate_limiter is not None:
            ticket = rate_limiter.take(item.input_data)
            if not ticket.granted:
                item.ticket = ticket
                return False
            if ticket.reservations:
                item.ticket = ticket
        item.started_ns = self._clock() if item.attempts else item.pulled_ns
        return True

    def enter_hedge(self, item: ItemRecord) -> tuple[bool, Ticket | None]:
        """Admit a hedge, which never waits for a policy.

        Returns:
            Whether the hedge may start, and its ticket of the rate limits, or None.
        """
        if self._breaker is not None and not self._breaker.closed:
            return False, None
        if self._rate_limiter is None:
            return True, None
        try:
            ticket = self._rate_limiter.take(item.input_data)
        except Exception:  # of the cost function; the item's own attempt goes on
            return False, None
        return ticket.granted, ticket if ticket.reservations else None

    async def wait(self, item: ItemRecord) -> None:
        """Wait until every policy admits the attempt, then start it.

        Raises:
            CircuitOpenError: As `enter`.
            CostTooHighError: As `enter`.
            Exception: As `enter`.
        """
        breaker, rate_limiter, batch = self._breaker, self._rate_limiter, self._batch
        asked_ns, began_ns = self._clock(), 0
        batch.queued += 1
        if batch.ledger is not None:
            batch.ledger.wait(RATE_LIMIT, asked_ns)
        try:
            while True:
                await self._pause.wait()
                began_ns = 0 if breaker is None else await self._pass(breaker)
                if rate_limiter is not None:
                    if item.ticket is None:
                        item.ticket = rate_limiter.take(item.input_data)
                    if not item.ticket.granted:
                        await rate_limiter.wait(item.ticket)
                if not self._pause.active and (began_ns or breaker is None or breaker.closed):
                    break
                if breaker is not None and began_ns:  # give the probe back, as the attempt does not start
                    breaker.record(self._clock(), began_ns, None)
                    began_ns = 0
                item.ticket = None  # the circuit opened, or a pause began; the limits do not refund the charge
        except BaseException:
            if breaker is not None and began_ns:
                breaker.record(self._clock(), began_ns, None)
            raise
        finally:
            batch.queued -= 1
            now = self._clock()
            item.rate_wait_ns += now - asked_ns
            if batch.ledger is not None:
                batch.ledger.resume(RATE_LIMIT, now)
        item.started_ns = began_ns or self._clock()
        if began_ns:
            item.probe_ns = began_ns  # not `started_ns`, which a remote executor sets to the start in its worker

    async def _pass(self, breaker: CircuitBreaker) -> int:
        """Wait for the circuit; returns the time that identifies a probe, or 0 if the circuit is closed."""
        while not breaker.closed:
            now = self._clock()
            wait_ns = breaker.wait_ns(now)
            if not wait_ns:
                return now
            if breaker.on_open == "fail":
                raise breaker.refusal(now)
            await breaker.wait(wait_ns)
        return 0

    def leave(self, item: ItemRecord, outcome: Any, *, ending: bool) -> Retry | None:
        """Learn from an attempt that has ended or was refused, and decide whether the item is tried again.

        Args:
            item: The item, with the attempt's outcome.
            outcome: The exception that the node raised, or the value that it returned.
            ending: True if the batch is being drained or stopped; a cancellation is then no failure.

        Returns:
            The granted retry, or None.
        """
        if isinstance(outcome, RejectedInputError):  # no attempt was made
            item.ticket = None
            return None
        began = item.started_ns > 0
        state = item.status
        cut_short = state == "cancelled" and ending
        broken: Exception | None = None  # raised by a user's function in a policy
        if self.learns:
            broken = self._learn(item, began=began, cut_short=cut_short)
        retries = self.retries
        if (
            broken is None
            and began  # a policy that refused the attempt would refuse it again, and no attempt was counted
            and retries is not None
            and not cut_short
            and (state != "ok" or retries.judges_successes)
            and type(outcome) not in NEVER_RUN  # a mistake in the node's code, which another attempt would repeat
        ):
            try:
                own = item.attempts if item.attempts == 1 else item.attempts - item.hedges
                return retries.decide(outcome, own, self._batch.begun, timed_out=state == "timed_out")
            except Exception as exc:
                broken = exc
        if broken is not None:  # the item fails with this error, whose context is the attempt's own
            broken.__context__ = item.exception
            settle_exception(item, broken)
            broken = None  # in this frame it would be in a reference cycle with its traceback
        return None

    def _learn(self, item: ItemRecord, *, began: bool, cut_short: bool) -> Exception | None:
        """Let breaker, rate limits and controller learn; returns the exception of a user's function, or None."""
        state = item.status
        broken: Exception | None = None
        if began and self._breaker is not None:
            ok: bool | None = None
            if not cut_short:
                error = item.error if item.exception is None else item.exception
                try:
                    ok = state == "ok" or not self._breaker.counts(error)
                except Exception as exc:
                    ok, broken = False, exc
            self._breaker.record(item.finished_ns, item.probe_ns or item.started_ns, ok)
            if item.probe_ns:
                item.probe_ns = 0
        if (rate_limiter := self._rate_limiter) is not None:
            if began and item.ticket is not None and rate_limiter.settles:
                rate_limiter.settle(item.ticket, item.metadata)
            item.ticket = None
        if began and self._controller is not None and not cut_short:
            self._adapt(self._controller, item)
        try:
            return broken
        finally:
            del broken  # in this frame it would be in a reference cycle with its traceback

    def _adapt(self, controller: LimitController, item: ItemRecord) -> None:
        """Let the controller learn from an attempt, and set the limit that it returns."""
        batch = self._batch
        outcome: Outcome = "ok"
        if item.status == "timed_out":
            outcome = "timed_out"
        elif item.status != "ok":
            outcome = _OUTCOMES[kind_of(item.exception)]
        before = controller.limit
        inflight = batch.pulled - batch.completed - batch.queued
        limit = controller.on_result(item.finished_ns, item.finished_ns - item.started_ns, inflight, outcome)
        if limit != before:
            batch.limit_change = controller.changes[-1]
            self._set_limit(limit)
