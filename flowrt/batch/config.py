"""Settings of a BatchProcessor: checked once, then only read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Self

from flowrt._util.validation import check_concurrency, check_count, check_duration, check_policy
from flowrt.engine.instrument import Dispatch, Instrument
from flowrt.executors import Executor, LoopExecutor, ThreadsExecutor, executor_of
from flowrt.executors.threads import blocking_call
from flowrt.journal import Journal, JournalPolicy
from flowrt.model.foreign_node import as_node
from flowrt.model.node import BaseNode
from flowrt.policies import AdaptiveLimit, Cache, CircuitBreaker, Hedge, RateLimit, RetryPolicy
from flowrt.policies.rate_limiter import check_limits
from flowrt.policies.rate_syntax import parse_rate
from flowrt.telemetry.options import Telemetry

__all__ = ["BatchConfig", "describe_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Settings of a processor, as `BatchProcessor` documents them. Make one with `of`, which checks them.

    Attributes:
        node: The node.
        name: The `batch` label of metrics, spans and logs.
        max_concurrency: Most items at once, or the policy that adapts the limit.
        continue_on_error: False stops the batch at the first failed item.
        item_timeout: Time limit of one attempt, in seconds.
        batch_timeout: Time limit of the whole batch, in seconds.
        retry: Which failed attempts are tried again.
        rate_limit: The rate limits; an attempt must satisfy all of them.
        breaker: The circuit breaker, or None.
        cache: The cache of outputs by input, or None.
        hedge: Which items get a second attempt beside their first, or None.
        executor: Where attempts run.
        journal: The journal of finished items, or None.
        record: File for the times of every attempt, or None.
        speedup_sample: Number of items to run one after another before the batch, or None.
        telemetry: Which of the built-in instruments observe the batch.
        instruments: Further instruments.
        task_per_item: True if each item has a task of its own.
    """

    node: BaseNode
    name: str
    max_concurrency: int | AdaptiveLimit
    continue_on_error: bool
    item_timeout: float | None
    batch_timeout: float | None
    retry: RetryPolicy | None
    rate_limit: tuple[RateLimit, ...]
    breaker: CircuitBreaker | None
    cache: Cache | None
    hedge: Hedge | None
    executor: Executor
    journal: JournalPolicy | Journal | None
    record: Path | None
    speedup_sample: int | None
    telemetry: Telemetry
    instruments: tuple[Instrument, ...]
    task_per_item: bool

    @classmethod
    def of(
        cls,
        *,
        node: Any,
        name: str | None,
        max_concurrency: int | AdaptiveLimit,
        continue_on_error: bool,
        item_timeout: float | None,
        batch_timeout: float | None,
        retry: RetryPolicy | int | None,
        rate_limit: RateLimit | str | Iterable[RateLimit | str] | None,
        breaker: CircuitBreaker | None,
        cache: Cache | str | os.PathLike[str] | bool | None,
        hedge: Hedge | None,
        executor: str | Executor | None,
        journal: str | os.PathLike[str] | JournalPolicy | Journal | None,
        record: str | os.PathLike[str] | None,
        speedup_sample: int | None,
        telemetry: bool | Telemetry,
        instruments: Iterable[Instrument],
        task_per_item: bool,
    ) -> Self:
        """Check settings as a caller passes them, and make the configuration.

        Raises:
            ValueError: A setting is out of its range.
            TypeError: A setting is of the wrong kind.
        """
        node = as_node(node)
        name = node.node_id if name is None else name
        if not isinstance(name, str) or not name:
            raise ValueError(f"name must be a non-empty string, not {name!r}")
        if not isinstance(max_concurrency, AdaptiveLimit):
            max_concurrency = check_concurrency(max_concurrency)
        if isinstance(retry, int) and not isinstance(retry, bool):
            retry = RetryPolicy(retry)
        used = executor_of(executor)
        hedge = check_policy("hedge", hedge, Hedge)
        if hedge is not None:
            _check_cancellable(node, used)
        config = cls(
            node=node,
            name=name,
            max_concurrency=max_concurrency,
            continue_on_error=continue_on_error,
            item_timeout=check_duration("item_timeout", item_timeout),
            batch_timeout=check_duration("batch_timeout", batch_timeout),
            retry=check_policy("retry", retry, RetryPolicy),
            rate_limit=_rate_limits(rate_limit),
            breaker=check_policy("breaker", breaker, CircuitBreaker),
            cache=Cache.of(cache),
            hedge=hedge,
            executor=used,
            journal=JournalPolicy.of(journal),
            record=None if record is None else _recording_path(record),
            speedup_sample=None if speedup_sample is None else check_count("speedup_sample", speedup_sample),
            telemetry=Telemetry.of(telemetry),
            instruments=tuple(instruments),
            task_per_item=bool(task_per_item),
        )
        Dispatch(config.instruments)  # raises TypeError for an object that is not an instrument
        return config

    def changed(self, **changes: Any) -> Self:
        """Return a copy with some settings changed, checked again.

        Raises:
            ValueError: A setting is out of its range.
            TypeError: A setting is of the wrong kind or unknown.
        """
        return self.of(**{**{field.name: getattr(self, field.name) for field in fields(self)}, **changes})

    @property
    def limit(self) -> int:
        """Most items that may ever run at once."""
        return self.max_concurrency.max if isinstance(self.max_concurrency, AdaptiveLimit) else self.max_concurrency


def _rate_limits(given: RateLimit | str | Iterable[RateLimit | str] | None) -> tuple[RateLimit, ...]:
    if given is None:
        return ()
    if isinstance(given, (RateLimit, str)):
        given = (given,)
    try:
        several = tuple(given)
    except TypeError:
        raise ValueError(
            f"rate_limit must be a RateLimit(...), a rate such as '100/s', or several, not {given!r}"
        ) from None
    limits = [_parsed(limit) if isinstance(limit, str) else limit for limit in several]
    return check_limits(limits) if limits else ()


def _parsed(rate: str) -> RateLimit:
    amount, per = parse_rate(rate)
    return RateLimit(amount, per=per)


def _check_cancellable(node: BaseNode, executor: Executor) -> None:
    """Raise ValueError for a node that cannot be cancelled: its slow attempt would run to its end in any case."""
    if isinstance(executor, (LoopExecutor, ThreadsExecutor)) and blocking_call(node) is not None:
        raise ValueError(
            f"hedge needs a node that can be cancelled, and {node.node_id!r} is a plain function in a thread, "
            "which runs to its end in any case: make it an `async def`, or leave out hedge"
        )


def _recording_path(path: str | os.PathLike[str]) -> Path:
    from flowrt.recording.writer_thread import check_recording_path  # noqa: PLC0415  # only for those who record

    return check_recording_path(path)


def describe_settings(config: BatchConfig) -> dict[str, Any]:
    """Return the settings as JSON values, so that a recording can be replayed under them.

    Functions are represented by their names.

    Args:
        config: The settings of the recorded batch.
    """
    return {
        "max_concurrency": config.limit,
        "continue_on_error": config.continue_on_error,
        "item_timeout": config.item_timeout,
        "batch_timeout": config.batch_timeout,
        "retry": _policy(config.retry),
        "breaker": None if config.breaker is None else str(config.breaker),
        "rate_limits": [_limit(limit) for limit in config.rate_limit],
        "hedge": _policy(config.hedge) if is_dataclass(config.hedge) else None,
    }


def _limit(limit: RateLimit) -> dict[str, Any]:
    constant = limit.constant
    return {
        "rate": limit.rate,
        "per": limit.per,
        "burst": limit.burst,
        "cost": None if constant is None else constant / 1_000_000,  # None: it differs from item to item
    }


def _policy(policy: Any) -> dict[str, Any] | None:
    if policy is None:
        return None
    return {field.name: _value(getattr(policy, field.name)) for field in fields(policy) if field.name != "_"}


def _value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, (tuple, list)):
        return [_value(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_value(each) for each in value), key=str)
    if isinstance(value, Callable):  # type: ignore[arg-type]  # a protocol of any call
        return {"function": getattr(value, "__qualname__", type(value).__name__)}
    return str(value)
