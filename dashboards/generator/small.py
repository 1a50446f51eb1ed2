"""Small batches dashboard: batches as small as requests, seen by their rate and by name rather than one by one."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.frame import frame
from dashboards.generator.links import link_to, row_link, runbook, to
from dashboards.generator.panels import Panel, Query, lines, number
from dashboards.generator.promql import LARGEST, Chosen, largest
from dashboards.generator.shared import (
    FAILING,
    FAILING_CELL,
    FAILING_SERIES,
    failing,
    failing_column,
    item_durations,
    items_by_status,
    percentiles,
)
from dashboards.generator.tables import Column, rows

__all__ = ["small"]

_Q: Final = Chosen("batch")

_DURATION: Final = "flowrt_batch_duration_seconds"


def small() -> model.Dashboard:
    """Build the dashboard."""
    return frame(
        "flowrt-small",
        "flowrt / Small batches",
        "Batches as small as requests: how many run, how many fail, how long they take, and how large they are.",
        [("", _now()), ("By name", _names()), ("Rate and duration", _over_time())],
        variables=("batch",),
        source="flowrt_batches_active",
        starts=False,
    )


def _failing(by: str = "") -> str:
    """Share of the batches that ended with failures; cancelled ones count as neither."""
    grouped = f"sum by ({by})" if by else "sum"
    failed = _Q.rate("flowrt_batches_total", 'status="failed"')
    ended = _Q.rate("flowrt_batches_total", 'status=~"ok|failed"')
    return f"{grouped} ({failed}) / ({grouped} ({ended}) > 0)"


def _size(by: str = "") -> str:
    grouped = f"sum by ({by})" if by else "sum"
    items, batches = _Q.rate("flowrt_items_total"), _Q.rate("flowrt_batches_total")
    return f"{grouped} ({items}) / ({grouped} ({batches}) > 0)"


def _now() -> list[Panel]:
    return [
        number(
            "Batches failing (%, now)",
            "Share of the batches that ended with at least one failed item.",
            "percentunit",
            Query(_failing()),
            steps=FAILING,
            filled=True,
            trend=False,
            decimals=1,
            nothing="no batches",
            links=[runbook("FlowrtItemErrorBudgetBurn")],
        ),
        failing(_Q),
        number(
            "Batches ended (/s, now)",
            "Batches that ended, whatever their status.",
            "suffix: /s",
            Query(f"sum({_Q.rate('flowrt_batches_total')})"),
            decimals=1,
        ),
        number(
            "Batch duration (mean, now)",
            "Mean time from a batch's start to its end.",
            "s",
            Query(_Q.mean(_DURATION)),
            decimals=2,
            nothing="no batches",
        ),
        number(
            "Items per batch (mean, now)",
            "Items that ended, per batch that ended.",
            "none",
            Query(_size()),
            decimals=1,
            nothing="no batches",
        ),
        number(
            "Batches active (now)",
            "Batches that run.",
            "none",
            Query(f"sum({_Q.metric('flowrt_batches_active')})"),
            links=[link_to("Batches", to("flowrt-batch")), runbook("FlowrtBatchStalled")],
        ),
    ]


def _names() -> list[Panel]:
    return [
        rows(
            "Batches by name, worst first (now)",
            "One row per name. Click a name to see its items.",
            ("batch",),
            [
                Column("Batches failing", _failing("batch"), "percentunit", FAILING_CELL, decimals=1),
                failing_column(_Q, "batch"),
                Column("Batches/s", f"sum by (batch) ({_Q.rate('flowrt_batches_total')})", "short"),
                Column("Mean duration", _Q.mean(_DURATION, "batch"), "s"),
                Column("p95 duration", _Q.quantile(0.95, _DURATION, by="batch"), "s"),
                Column("Items per batch", _size("batch"), "short", decimals=1),
                Column("Active", f"sum by (batch) ({_Q.metric('flowrt_batches_active')})", "none"),
            ],
            width=16,
            sort="Batches failing",
            widths={"Items per batch": 140, "Active": 70},
            row_links={"batch": [row_link("Its items", "flowrt-batch", "batch")]},
        ),
        lines(
            "Batches failing, by name (%)",
            f"Share of the batches that ended with at least one failed item. {LARGEST}",
            "percentunit",
            Query(largest(_failing("batch"), "batch"), "{{batch}}"),
            width=8,
            by_value=FAILING_SERIES,
            links=[runbook("FlowrtItemErrorBudgetBurn")],
        ),
    ]


def _over_time() -> list[Panel]:
    return [
        lines(
            "Batches ended, by status (per second)",
            "failed: at least one item failed.",
            "suffix: /s",
            Query(f"sum by (status) ({_Q.rate('flowrt_batches_total')})", "{{status}}"),
            stacked=True,
            width=8,
        ),
        lines(
            "Batches ended, by name (per second)",
            f"The rate at which the batches of each name end. {LARGEST}",
            "suffix: /s",
            Query(largest(f"sum by (batch) ({_Q.rate('flowrt_batches_total')})", "batch"), "{{batch}}"),
            width=8,
        ),
        lines(
            "Batch duration (s)",
            "Time from a batch's start to its end. The mean is exact; a percentile in the histogram's first bucket is "
            "not drawn.",
            "s",
            *percentiles(_Q, _DURATION, 0.95, 0.99),
            width=8,
        ),
        lines(
            "Batch duration, by name (mean, s)",
            f"Mean time from a batch's start to its end. {LARGEST}",
            "s",
            Query(largest(_Q.mean(_DURATION, "batch"), "batch"), "{{batch}}"),
            width=8,
        ),
        lines(
            "Items per batch, by name (mean)",
            f"Items that ended, per batch that ended. {LARGEST}",
            "short",
            Query(largest(_size("batch"), "batch"), "{{batch}}"),
            width=8,
        ),
        items_by_status(width=8),
        item_durations(_Q, width=24),
    ]
