"""Parameter types of policies."""

from __future__ import annotations

from typing import Any

import click
import pytest

from flowrt.cli.options.param_types import CONCURRENCY, HEDGE, RATE
from flowrt.policies import AdaptiveLimit, Hedge


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("2:50", AdaptiveLimit(2, 50)),
        ("auto", AdaptiveLimit(1, 100)),
    ],
)
def test_concurrency_accepts_a_number_bounds_and_auto(text: str, value: Any) -> None:
    assert CONCURRENCY.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("text", "value"), [("p95", Hedge("p95")), ("p99.9", Hedge("p99.9")), ("2", Hedge(2.0)), ("0.5s", Hedge(0.5)),
                        ("200ms", Hedge(0.2))]
)  # fmt: skip
def test_hedge_accepts_a_quantile_and_a_time(text: str, value: Hedge) -> None:
    assert HEDGE.convert(text, None, None) == value


def test_rate_accepts_an_amount_per_time() -> None:
    limit = RATE.convert("600/min", None, None)
    assert (limit.rate, limit.per) == (600, 60)
    assert RATE.convert(limit, None, None) is limit, "click converts defaults again"


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (CONCURRENCY, "0", "at least 1, not 0"),
        (CONCURRENCY, "0:4", "min must be an integer of at least 1, not 0"),
        (CONCURRENCY, "5:2", "max must be at least min=5, not 2"),
        (CONCURRENCY, "1:2:3", "'1:2:3' is neither a number of items, like 50"),
        (CONCURRENCY, ":5", "':5' is neither"),
        (CONCURRENCY, "1.5", "'1.5' is neither"),
        (RATE, "100", "written like 100/s"),
        (RATE, "0/s", "above 0"),
        (RATE, "-1/s", "not '-1/s'"),
        (RATE, "5/parsec", "not '5/parsec'"),
        (HEDGE, "p0", "'p0' is neither a quantile, like p95, nor a time"),
        (HEDGE, "0", "above 0, not 0"),
        (HEDGE, "nan", "'nan' is neither"),
        (HEDGE, "", "'' is neither"),
    ],
)
def test_invalid_policy_text_is_refused_with_the_fix(kind: click.ParamType, text: str, expected: str) -> None:
    with pytest.raises(click.BadParameter) as raised:
        kind.convert(text, None, None)
    assert expected in raised.value.message
