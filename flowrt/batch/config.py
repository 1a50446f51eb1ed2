"""A processor's settings as JSON holds them, so that a recording can be replayed under the same and under others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

__all__ = ["describe_settings"]


class _Processor(Protocol):
    @property
    def max_concurrency(self) -> int: ...
    @property
    def continue_on_error(self) -> bool: ...
    @property
    def item_timeout(self) -> float | None: ...
    @property
    def batch_timeout(self) -> float | None: ...
    @property
    def retry(self) -> Any: ...
    @property
    def breaker(self) -> Any: ...
    @property
    def rate_limits(self) -> tuple[Any, ...]: ...


def describe_settings(processor: _Processor) -> dict[str, Any]:
    """What a batch of the processor runs under. Functions among the settings have no form there, and are named.

    Args:
        processor: A BatchProcessor.
    """
    settings: dict[str, Any] = {
        "max_concurrency": processor.max_concurrency,
        "continue_on_error": processor.continue_on_error,
        "item_timeout": processor.item_timeout,
        "batch_timeout": processor.batch_timeout,
        "retry": _policy(processor.retry),
        "breaker": None if processor.breaker is None else str(processor.breaker),
        "rate_limits": [_limit(limit) for limit in processor.rate_limits],
    }
    hedge = getattr(processor, "hedge", None)
    settings["hedge"] = _policy(hedge) if is_dataclass(hedge) else None
    return settings


def _limit(limit: Any) -> dict[str, Any]:
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
    found: dict[str, Any] = {}
    for field in fields(policy):
        if field.name != "_":
            found[field.name] = _value(getattr(policy, field.name))
    return found


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
