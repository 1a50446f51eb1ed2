"""Settings of a replay: the recorded ones, with changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from flowrt.policies import Hedge, RateLimit, RetryPolicy

__all__ = ["UNSET", "Plan"]

UNSET: Final[Any] = object()
"""Marks a setting that stays as recorded."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings under which a batch is replayed.

    Attributes:
        max_concurrency: Concurrency limit.
        item_timeout: Time limit of one attempt, in seconds.
        batch_timeout: Time limit of the whole batch, in seconds.
        retry: Retry policy.
        rates: Rate limits, which all hold: amount, period in seconds, burst, and cost of an item.
        hedge: Hedging policy.
        notes: Recorded settings that a replay leaves out.
        limit_as_recorded: True if the concurrency limit changes when the recorded one did, up to `max_concurrency`;
            else it is `max_concurrency` throughout.
    """

    max_concurrency: int
    item_timeout: float | None
    batch_timeout: float | None
    retry: RetryPolicy | None
    rates: tuple[tuple[float, float, float | None, float], ...]
    hedge: Hedge | None
    notes: tuple[str, ...] = ()
    limit_as_recorded: bool = True

    @classmethod
    def recorded(cls, settings: dict[str, Any], limits: list[list[int]]) -> Plan:
        """The recorded settings.

        Args:
            settings: Settings in the recording's metadata.
            limits: Pairs of a time in nanoseconds and the concurrency limit from then on.
        """
        notes = []
        retry = settings.get("retry")
        rates = settings.get("rate_limits") or []
        if settings.get("breaker"):
            notes.append("the recorded circuit breaker is not replayed")
        if any(limit["cost"] is None for limit in rates):
            notes.append("the recorded rate limit has a cost function: a replay counts each item as 1")
        if isinstance(retry, dict) and (isinstance(retry.get("wait"), dict) or isinstance(retry.get("when"), dict)):
            notes.append("functions of the recorded retry policy are not replayed: a replay uses the default waits")
        if not settings.get("continue_on_error", True):
            notes.append("the recorded batch stops at its first failed item: a replay goes on")
        hedge = settings.get("hedge")
        return cls(
            max_concurrency=max([limit for _, limit in limits], default=settings.get("max_concurrency", 10)),
            item_timeout=settings.get("item_timeout"),
            batch_timeout=settings.get("batch_timeout"),
            retry=None if retry is None else _retry(retry),
            rates=tuple((r["rate"], r["per"], r["burst"], 1 if r["cost"] is None else r["cost"]) for r in rates),
            hedge=None if hedge is None else Hedge(**{k: hedge[k] for k in ("after", "most", "share", "minimum")}),
            notes=tuple(notes),
        )

    def changed(
        self,
        *,
        max_concurrency: int = UNSET,
        item_timeout: float | None = UNSET,
        batch_timeout: float | None = UNSET,
        retries: int = UNSET,
        rates: list[RateLimit] = UNSET,
        hedge: Hedge | None = UNSET,
    ) -> Plan:
        """A copy with other settings.

        Args:
            max_concurrency: Concurrency limit, fixed throughout.
            item_timeout: Time limit of one attempt, in seconds; None for no limit.
            batch_timeout: Time limit of the whole batch, in seconds; None for no limit.
            retries: Most retries of an item; 0 for none.
            rates: Rate limits in place of the recorded ones; an empty list for none.
            hedge: Hedging policy; None for none.
        """
        changes: dict[str, Any] = {
            "max_concurrency": max_concurrency,
            "item_timeout": item_timeout,
            "batch_timeout": batch_timeout,
            "hedge": hedge,
        }
        if max_concurrency is not UNSET:
            changes["limit_as_recorded"] = False
        if retries is not UNSET:
            base = self.retry or RetryPolicy()
            changes["retry"] = replace(base, attempts=retries + 1) if retries else None
        if rates is not UNSET:
            changes["rates"] = tuple((limit.rate, limit.per, limit.burst, 1) for limit in rates)
        return replace(self, **{name: value for name, value in changes.items() if value is not UNSET})

    def retry_policy(self, rng: Random, *, wanted: Any = None) -> RetryPolicy | None:
        """The retry policy, with reproducible waits; None for no retries.

        Args:
            rng: Random generator of the waits.
            wanted: Predicate of the failures to retry, if the recording shows which were; else the policy decides.
        """
        policy = self.retry
        if policy is None:
            return None
        changes: dict[str, Any] = {
            "wait": lambda state: rng.random() * policy.ceiling_s(state.attempt_number),
            "when": None,
        }
        if wanted is not None:
            changes["on"] = wanted
        return replace(policy, **changes)

    def rate_limits(self) -> list[RateLimit] | None:
        """Fresh rate limits, with a full burst; None without limits."""
        return [RateLimit(rate, per, burst=burst, cost=cost) for rate, per, burst, cost in self.rates] or None


def _retry(recorded: dict[str, Any]) -> RetryPolicy:
    plain = ("attempts", "base", "cap", "factor", "timeouts", "status_codes", "retry_after_max", "budget")
    names = (*plain, "budget_minimum", "waiting")
    return RetryPolicy(**{name: recorded[name] for name in names if name in recorded})
