"""Settings beyond all timers and floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowrt import AdaptiveLimit, BatchProcessor, CircuitBreaker, FunctionNode, Hedge, RateLimit, RetryPolicy
from tests.conftest import Run

SETTINGS: dict[str, Callable[[Any], Any]] = {
    "item_timeout": lambda value: BatchProcessor(FunctionNode(_same), item_timeout=value),
    "batch_timeout": lambda value: BatchProcessor(FunctionNode(_same), batch_timeout=value),
    "retry": lambda value: BatchProcessor(FunctionNode(_same), retry=RetryPolicy(base=value, cap=value)),
    "rate": lambda value: BatchProcessor(FunctionNode(_same), rate_limit=RateLimit(value)),
    "per": lambda value: BatchProcessor(FunctionNode(_same), rate_limit=RateLimit(9, per=value, burst=9)),
    "breaker": lambda value: BatchProcessor(FunctionNode(_same), breaker=CircuitBreaker(window=value, cooldown=value)),
    "hedge": lambda value: BatchProcessor(FunctionNode(_same), hedge=Hedge(value)),
    "adaptive": lambda value: BatchProcessor(FunctionNode(_same), AdaptiveLimit(window=value, tolerance=value)),
}


async def _same(x: int) -> int:
    return x


@pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)
def test_integer_beyond_all_floats_is_refused(make: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"must be a .*number"):
        make(10**400)


@pytest.mark.parametrize("value", [1e300, 10**300, 1.7e308], ids=["float", "int", "most"])
@pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)
def test_endless_duration_is_no_limit(make: Callable[[Any], Any], value: float, run: Run) -> None:
    assert [result.output for result in run(make(value).batch(range(3)))] == [0, 1, 2]
