"""The settings of a replay: as they were recorded, but for those that are to be others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from flowrt.policies import Hedge, RateLimit, RetryPolicy

__all__ = ["UNSET", "Plan"]

UNSET: Final[Any] = object()
"""Stands for a setting that stays as it was recorded."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch is replayed under.

    Attributes:
        max_concurrency: How many items may run at once.
        item_timeout: Time limit of one attempt, in seconds.
        batch_timeout: Time limit of the whole batch, in seconds.
        retry: Which failed attempts are tried again.
        rates: Amounts and their times, in seconds, of which all hold, each with the most at once and an item's cost.
        hedge: When a straggler gets a second attempt.
        notes: What of the recorded settings cannot be replayed.
        limit_as_recorded: Whether the concurrency limit changes when it changed then, up to `max_concurrency`; else it
            is that all the time.
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
        """The settings of the recording itself.

        Args:
            settings: As the recording has them.
            limits: The concurrency limit from the given nanosecond on.
        """
        notes = []
        retry = settings.get("retry")
        rates = settings.get("rate_limits") or []
        if settings.get("breaker"):
            notes.append("the recorded circuit breaker is not replayed")
        if any(limit["cost"] is None for limit in rates):
            notes.append("the recorded rate limit weighs items differently, which a replay counts as 1 each")
        if isinstance(retry, dict) and (isinstance(retry.get("wait"), dict) or isinstance(retry.get("when"), dict)):
            notes.append("functions of the recorded retry policy are not replayed: its waits are the default ones")
        if not settings.get("continue_on_error", True):
            notes.append("that the recorded batch stops at its first failed item is not replayed")
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
        """The same with some other settings.

        Args:
            max_concurrency: How many items may run at once, all the time.
            item_timeout: Time limit of one attempt, in seconds; None for no limit.
            batch_timeout: Time limit of the whole batch, in seconds; None for no limit.
            retries: How often a failed item is tried again at most; 0 for never.
            rates: Rate limits in place of the recorded ones; an empty list for none.
            hedge: When a straggler gets a second attempt; None for never.
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
        """The retry policy, with waits that are the same in each replay.

        Args:
            rng: Draws the waits.
            wanted: Decides which failures are tried again, where the recording shows it.
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
        """Rate limits that nothing has gone through yet."""
        return [RateLimit(rate, per, burst=burst, cost=cost) for rate, per, burst, cost in self.rates] or None


def _retry(recorded: dict[str, Any]) -> RetryPolicy:
    plain = ("attempts", "base", "cap", "factor", "timeouts", "status_codes", "retry_after_max", "budget")
    names = (*plain, "budget_minimum", "waiting")
    return RetryPolicy(**{name: recorded[name] for name in names if name in recorded})
