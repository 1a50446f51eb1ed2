"""Settings of a load test, parsed and checked."""

from __future__ import annotations

from typing import Any

import pytest

from flowrt.loadtest.plan import LatencyBudget, Plan, parse_share


@pytest.mark.parametrize(
    ("text", "seconds", "percentile"),
    [("p99=250ms", 0.25, 99), ("p95=1.5s", 1.5, 95), ("0.5", 0.5, 95), ("p99.9<2", 2, 99.9), (" 20ms ", 0.02, 95)],
)
def test_latency_budget_parses_each_of_its_forms(text: str, seconds: float, percentile: float) -> None:
    assert LatencyBudget.parse(text) == LatencyBudget(seconds, percentile)


@pytest.mark.parametrize("text", ["", "fast", "p95", "p95=", "p0=1", "-1", "0", "1h", "p100=1", "nan"])
def test_other_text_is_no_latency_budget(text: str) -> None:
    with pytest.raises(ValueError, match=r"budget|percentile"):
        LatencyBudget.parse(text)


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.05", 0.05), ("0", 0.0), ("0.5 %", 0.005)])
def test_share_parses_per_cent_and_numbers(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "x", "100%", "1", "-1%", "nan"])
def test_other_text_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="share"):
        parse_share(text)


@pytest.mark.parametrize(
    ("settings", "data"),
    [
        ({"concurrencies": (2, 0)}, "--concurrency 2,0: each is 1 or more, like 1,2,5,10"),
        ({"concurrencies": (1, 2, 1)}, "--concurrency 1,1,2: a setting is given twice"),
        (
            {"concurrencies": (1,), "arrival_rates": (2.5,)},
            "--concurrency 1 and --arrival-rate 2.5 are two runs: give one of them",
        ),
        ({"arrival_rates": (0.0,)}, "--arrival-rate 0: each is a positive number"),
        ({"arrival_rates": (float("inf"),)}, "--arrival-rate inf: each is a positive number"),
        ({"arrival_rates": (1.0, float("nan"))}, "--arrival-rate 1,nan: each is a positive number"),
        ({"step": 0}, "--step must be a positive number"),
        ({"duration": -1}, "--duration must be a positive number"),
        ({"item_timeout": 0}, "--item-timeout must be a positive number"),
        ({"max_requests": 0}, "--max-requests 0: it is 1 or more"),
        ({"passes": True}, "--passes True: it is 1 or more"),
        ({"error_budget": 1.0}, "--error-budget 1.0: it is a share from 0 to below 1"),
    ],
)
def test_setting_out_of_range_is_refused_by_name(settings: dict[str, Any], data: str) -> None:
    with pytest.raises(ValueError, match=data):
        Plan(**settings)
