"""Batch dashboard: failures, progress, time left, and what holds the batch back."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.frame import frame
from dashboards.generator.links import link_to, row_link, runbook, to
from dashboards.generator.panels import COLOURS, ERRORS, Panel, Query, lines, number
from dashboards.generator.promql import AT_THE_END, LARGEST, MOST_SERIES, Chosen, largest
from dashboards.generator.recording import FAILED
from dashboards.generator.shared import (
    bound_by,
    failing,
    failing_column,
    holding,
    in_flight,
    items_by_status,
    items_per_second,
    queue_wait,
)
from dashboards.generator.tables import Column, rows

__all__ = ["batch"]

_Q: Final = Chosen("batch")

_BAD: Final = ((None, "transparent"), (0.5, ERRORS))
_ENDS: Final = (
    ("Ok", 'status="ok"', ()),
    ("With failures", 'status="failed"', _BAD),
    ("Cancelled", 'status="cancelled"', ()),
)


def batch() -> model.Dashboard:
    """Build the dashboard."""
    return frame(
        "flowrt-batch",
        "flowrt / Batch",
        "Whether a batch fails, how far it is, when it will be done, and what holds it back.",
        [
            ("", _now()),
            ("Progress", _progress()),
            ("Waits", _waits()),
            ("Runs", _runs()),
        ],
        variables=("batch",),
        source="flowrt_batches_active",
    )


def _now() -> list[Panel]:
    expected, completed = _Q.metric("flowrt_batch_items_expected"), _Q.metric("flowrt_batch_items_completed")
    left = f"((sum({expected}) > 0) - sum({completed}))"
    return [
        failing(_Q, width=3),
        number(
            "Failed (items, time shown)",
            "Items that failed or timed out. The Node dashboard has their errors.",
            "locale",
            Query(f"sum({_Q.increase('flowrt_items_total', FAILED)})"),
            steps=((None, "text"), (0.5, ERRORS)),
            decimals=0,
            trend=False,
            width=4,
            nothing="no items",
            links=[link_to("Nodes", to("flowrt-node")), runbook("FlowrtItemErrorBudgetBurn")],
        ),
        number(
            "Progress (%, now)",
            "Items that ended, of all items of the active batches; empty where their number is unknown.",
            "percentunit",
            Query(f"sum({completed}) / (sum({expected}) > 0)"),
            decimals=0,
            width=3,
            nothing="no batch",
        ),
        number(
            "Time left (now)",
            "Items left at the present rate; empty where their number is unknown or no item ends.",
            "s",
            Query(f"{left} / (sum({_Q.rate('flowrt_items_total')}) > 0)"),
            decimals=0,
            width=3,
            nothing="unknown",
            links=[runbook("FlowrtBatchStalled")],
        ),
        holding(width=5),
        items_per_second(),
        number(
            "Last success (ago)",
            "Time since a batch last ended with every item ok.",
            "dateTimeFromNow",
            Query(f"(max({_Q.metric('flowrt_batch_last_success_timestamp_seconds')}) > 0) * 1000"),
            trend=False,
            width=3,
            nothing="never",
            links=[runbook("FlowrtBatchMissing")],
        ),
    ]


def _progress() -> list[Panel]:
    expected, completed = _Q.metric("flowrt_batch_items_expected"), _Q.metric("flowrt_batch_items_completed")
    return [
        bound_by(),
        lines(
            "Progress of the active batches (items)",
            "Items that ended, and the number of items where it is known.",
            "short",
            Query(f"sum({completed})", "done"),
            Query(f"sum({expected})", "expected"),
            width=6,
            filled=True,
        ),
        items_by_status(width=6, links=[link_to("Nodes", to("flowrt-node")), runbook("FlowrtItemErrorBudgetBurn")]),
    ]


def _waits() -> list[Panel]:
    return [
        lines(
            "Items waiting, by cause (mean number)",
            "Items that wait for the rate limit or for their next attempt. A wait counts when the item ends.",
            "short",
            Query(f"sum({_Q.rate('flowrt_rate_limit_wait_seconds_total')})", "rate_limit"),
            Query(f"sum({_Q.rate('flowrt_retry_backoff_seconds_total')})", "backoff"),
            width=8,
            most=1,
        ),
        queue_wait(_Q, width=8),
        in_flight(_Q, width=8, links=[runbook("FlowrtSaturated")]),
    ]


def _runs() -> list[Panel]:
    # Over the time shown, as there may be hours between the ends of two runs.
    total, count = _Q.increase("flowrt_batch_duration_seconds_sum"), _Q.increase("flowrt_batch_duration_seconds_count")
    completion = _Q.metric("flowrt_batch_last_completion_timestamp_seconds")
    speedup = _Q.metric("flowrt_batch_speedup_ratio")
    return [
        rows(
            "Runs of each batch (time shown)",
            "How the runs ended, and when the last one did. Click a batch to see it alone.",
            ("batch",),
            [
                Column("Active", f"sum by (batch) ({_Q.metric('flowrt_batches_active')})", "none"),
                *(
                    Column(
                        title,
                        f"sum by (batch) ({_Q.increase('flowrt_batches_total', status)})",
                        "short",
                        steps,
                        decimals=0,
                    )
                    for title, status, steps in _ENDS
                ),
                failing_column(_Q, "batch"),
                Column("Last end", f"(max by (batch) ({completion}) > 0) * 1000", "dateTimeFromNow"),
                Column("Unaccounted", f"max by (batch) ({_Q.metric('flowrt_unaccounted_items')})", "none", _BAD),
            ],
            width=14,
            sort="Items failing",
            widths={"Last end": 120, "With failures": 110, "Items failing": 110, "Unaccounted": 115},
            row_links={"batch": [row_link("Only this batch", "flowrt-batch", "batch")]},
        ),
        lines(
            "Run duration (mean, s)",
            "Time from a batch's start to its end. Each point is the mean of the runs that ended in the time shown "
            f"before it. {LARGEST}",
            "s",
            Query(largest(f"sum by (batch) ({total}) / (sum by (batch) ({count}) > 0)", "batch"), "{{batch}}"),
            width=5,
        ),
        lines(
            "Speedup of the last run (×)",
            "Sum of execution times over wall time (claimed), and without the time that items delayed each other "
            f"(measured). Drawn are the {MOST_SERIES} batches with the lowest.",
            "suffix:×",
            Query(
                f"max by (batch, method) ({speedup}) "
                f"and on (batch) bottomk({MOST_SERIES}, min by (batch) (min_over_time({speedup}{AT_THE_END})))",
                "{{batch}} ({{method}})",
            ),
            patterns={r"/\(claimed\)$/": COLOURS["limit"]},
            width=5,
        ),
    ]
