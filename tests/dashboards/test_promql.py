"""Percentiles are drawn only where the histogram knows them; the mean is exact everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dashboards.generator.filled import filled
from dashboards.generator.promql import LOWEST_BOUND_S, MOST_SERIES, Chosen, largest
from flowrt.telemetry.metrics.catalogue import CATALOGUE
from tests.dashboards.promtool import assert_passes

WAIT = "flowrt_item_queue_wait_seconds"
LABELS = 'job="svc", instance="a:9464", batch="nightly", node="fetch"'
CHOSEN = Chosen("batch")


def expected(query: str, *values: float) -> dict[str, Any]:
    samples = [{"labels": "{}", "value": value} for value in values]
    return {"expr": filled(query, interval="5m", span="1h"), "eval_time": "10m", "exp_samples": samples}


@pytest.mark.parts
def test_percentile_in_the_first_bucket_is_not_made_up(promtool: str, tmp_path: Path) -> None:
    # 64 items a minute, 1/1024 s each: the percentiles that Prometheus interpolates would be 2.5 ms and 4.95 ms.
    group = {
        "name": "quick items",
        "interval": "1m",
        "input_series": [
            {"series": f'{WAIT}_bucket{{{LABELS}, le="0.005"}}', "values": "0+64x20"},
            {"series": f'{WAIT}_bucket{{{LABELS}, le="+Inf"}}', "values": "0+64x20"},
            {"series": f"{WAIT}_sum{{{LABELS}}}", "values": "0+0.0625x20"},
            {"series": f"{WAIT}_count{{{LABELS}}}", "values": "0+64x20"},
        ],
        "promql_expr_test": [
            expected(CHOSEN.quantile(0.5, WAIT)),
            expected(CHOSEN.quantile(0.99, WAIT)),
            expected(CHOSEN.at_most(0.99, WAIT), 0.005),
            expected(CHOSEN.mean(WAIT), 1 / 1024),
        ],
    }
    assert_passes(promtool, tmp_path, [group])


@pytest.mark.parts
def test_percentile_beyond_the_first_bucket_is_drawn(promtool: str, tmp_path: Path) -> None:
    group = {
        "name": "slow items",
        "interval": "1m",
        "input_series": [
            {"series": f'{WAIT}_bucket{{{LABELS}, le="0.005"}}', "values": "0x20"},
            {"series": f'{WAIT}_bucket{{{LABELS}, le="0.01"}}', "values": "0+60x20"},
            {"series": f'{WAIT}_bucket{{{LABELS}, le="+Inf"}}', "values": "0+60x20"},
        ],
        "promql_expr_test": [
            expected(CHOSEN.quantile(0.5, WAIT), 0.0075),
            expected(CHOSEN.at_most(0.5, WAIT), 0.0075),
        ],
    }
    assert_passes(promtool, tmp_path, [group])


def test_first_bucket_of_every_histogram_is_known() -> None:
    assert set(LOWEST_BOUND_S) == {name for name, metric in CATALOGUE.items() if metric.kind == "histogram"}


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(KeyError, match="flowrt_itmes_total is not in the catalogue"):
        CHOSEN.metric("flowrt_itmes_total")


@pytest.mark.parts
def test_largest_series_are_those_of_the_whole_time_shown(promtool: str, tmp_path: Path) -> None:
    # Name 0 ends most items over the hour, but none in the last five minutes; the others end more with their number.
    names = [f"name {number}" for number in range(MOST_SERIES + 3)]
    query = largest(f"60 * sum by (batch) ({CHOSEN.rate('flowrt_items_total')})", "batch")
    rising = [f"0+{number}x70" for number in range(1, len(names))]
    group = {
        "name": "many names",
        "interval": "1m",
        "input_series": [
            {"series": f'flowrt_items_total{{job="svc", instance="a:9464", batch="{name}"}}', "values": values}
            for name, values in zip(names, ["0+1000x50 50000x20", *rising], strict=True)
        ],
        "promql_expr_test": [
            {
                "expr": filled(f"round({query})", interval="5m", span="1h"),
                "eval_time": "60m",
                "exp_samples": [
                    {"labels": f'{{batch="{name}"}}', "value": 0 if number == 0 else number}
                    for number, name in enumerate(names)
                    if number == 0 or number > len(names) - MOST_SERIES
                ],
            }
        ],
    }
    assert_passes(promtool, tmp_path, [group])
