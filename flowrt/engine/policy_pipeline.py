"""Policy pipeline: what an attempt must pass before it begins, and what the policies learn once it has ended."""

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
        pause: Holds back items that would begin an attempt.
        rate_limiter: The rate limits.
        breaker: The node's circuit breaker.
        retries: Decides on further attempts.
        controller: Finds the concurrency limit.
        set_limit: Called with a new limit when the controller wants one.

    Attributes:
        holds_back: True if `enter` must be called before every attempt; else nothing holds one back.
        learns: True if `leave` must be called for every ended attempt; else only for those that did not end ok.
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
        """Let an attempt begin now if nothing holds it back; else `await wait(item)`.

        Raises:
            CircuitOpenError: The circuit is open, and lets items fail.
            CostTooHighError: The item costs more than a rate limit ever admits.
            Exception: What a rate limit's cost function raised.
        """
        breaker, rate_limiter = self._breaker, self._rate_limiter
        if type(item.input_data) is Rejected:  # it has no attempt: it costs nothing and probes nothing
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
        """Let a second attempt begin beside the item's own, now or not at all.

        Returns:
            Whether it may begin, and what the rate limits charged for it.
        """
        if self._breaker is not None and not self._breaker.closed:
            return False, None
        if self._rate_limiter is None:
            return True, None
        try:
            ticket = self._rate_limiter.take(item.input_data)
        except Exception:  # the cost function's: the item's own attempt goes on
            return False, None
        return ticket.granted, ticket if ticket.reservations else None

    async def wait(self, item: ItemRecord) -> None:
        """Wait until an attempt may begin.

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
                if breaker is not None and began_ns:  # a probe that does not begin makes way for the next
                    breaker.record(self._clock(), began_ns, None)
                    began_ns = 0
                item.ticket = None  # the circuit opened meanwhile, or a pause began; what the limits charged stays so
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
            item.probe_ns = began_ns  # kept apart: a remote executor sets when the attempt started in its worker

    async def _pass(self, breaker: CircuitBreaker) -> int:
        """Wait for the circuit; returns the time by which it identifies a probe, 0 where it is closed."""
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
            item: Its record, with the attempt's outcome.
            outcome: What the node raised, or what it returned.
            ending: The batch is being drained or stopped, so that a cancellation is the engine's and no failure.
        """
        if isinstance(outcome, RejectedInputError):  # no attempt, and no input to make one with
            item.ticket = None
            return None
        began = item.started_ns > 0
        state = item.status
        cut_short = state == "cancelled" and ending
        broken: Exception | None = None  # what a policy's function raised
        if self.learns:
            broken = self._learn(item, began=began, cut_short=cut_short)
        retries = self.retries
        if (
            broken is None
            and began  # else what refused it would only do so again, and no attempt counts it
            and retries is not None
            and not cut_short
            and (state != "ok" or retries.judges_successes)
            and type(outcome) not in NEVER_RUN  # an error of the node's code, which another attempt would only repeat
        ):
            try:
                own = item.attempts if item.attempts == 1 else item.attempts - item.hedges
                return retries.decide(outcome, own, self._batch.begun, timed_out=state == "timed_out")
            except Exception as exc:
                broken = exc
        if broken is not None:  # the item fails by it, and its own error is the context
            broken.__context__ = item.exception
            settle_exception(item, broken)
            broken = None  # or it would hold on to itself by its traceback
        return None

    def _learn(self, item: ItemRecord, *, began: bool, cut_short: bool) -> Exception | None:
        """Let breaker, rate limits and controller learn from an attempt; returns what a policy's function raised."""
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
            del broken  # or it would hold on to itself by its traceback

    def _adapt(self, controller: LimitController, item: ItemRecord) -> None:
        """Let the controller learn from an attempt, and change the limit if it wants another."""
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
