"""Batch: how far it is, when it will be done, and what holds it back."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.frame import frame
from dashboards.generator.links import link_to, row_link, runbook, to
from dashboards.generator.panels import Panel, Query, lines, number
from dashboards.generator.promql import Chosen
from dashboards.generator.shared import bound_by, holding, in_flight, items_by_status, items_per_second, percentiles
from dashboards.generator.tables import Column, rows

__all__ = ["batch"]

_Q: Final = Chosen("batch")

_MEASURED: Final = 'method="measured"'
_CLAIMED: Final = 'method="claimed"'
_ENDS: Final = (("Ok", 'status="ok"'), ("With failures", 'status="failed"'), ("Cancelled", 'status="cancelled"'))


def batch() -> model.Dashboard:
    """The dashboard."""
    return frame(
        "flowrt-batch",
        "flowrt / Batch",
        "How far a batch is, when it will be done, and what holds it back.",
        [
            ("", _now()),
            ("Under way", _under_way()),
            ("What it waits for", _waiting()),
            ("Run after run", _runs()),
        ],
        variables=("batch",),
        source="flowrt_batches_active",
    )


def _left(per: str = "") -> str:
    expected, completed = _Q.metric("flowrt_batch_items_expected"), _Q.metric("flowrt_batch_items_completed")
    return f"((sum{per}({expected}) > 0) - sum{per}({completed}))"


def _now() -> list[Panel]:
    expected, completed = _Q.metric("flowrt_batch_items_expected"), _Q.metric("flowrt_batch_items_completed")
    success = _Q.metric("flowrt_batch_last_success_timestamp_seconds")
    completion = _Q.metric("flowrt_batch_last_completion_timestamp_seconds")
    return [
        number(
            "Progress",
            "Items that ended of those that the batches under way hold; nothing where their number is unknown.",
            "percentunit",
            Query(f"sum({completed}) / (sum({expected}) > 0)"),
            decimals=0,
            width=3,
            nothing="no batch",
        ),
        number(
            "Time left",
            "The items left at the present rate; nothing where their number is unknown or no item ends.",
            "s",
            Query(f"{_left()} / (sum({_Q.rate('flowrt_items_total')}) > 0)"),
            decimals=0,
            width=3,
            nothing="unknown",
            links=[runbook("FlowrtBatchStalled")],
        ),
        holding(),
        items_per_second(),
        number(
            "Last success",
            "When a batch last ended with every item ok.",
            "dateTimeFromNow",
            Query(f"(max({success}) > 0) * 1000"),
            trend=False,
            width=3,
            nothing="never",
            links=[runbook("FlowrtBatchMissing")],
        ),
        number(
            "Last end",
            "When a batch last ended in any way.",
            "dateTimeFromNow",
            Query(f"(max({completion}) > 0) * 1000"),
            trend=False,
            width=3,
            nothing="never",
        ),
        number(
            "Speedup of the last run",
            "How much faster it was than one item at a time, as measured or, where nothing was measured, as claimed: "
            "the sum of execution times over the wall time.",
            "suffix:×",
            Query(
                f"max({_Q.metric('flowrt_batch_speedup_ratio', _MEASURED)}) > 0 "
                f"or max({_Q.metric('flowrt_batch_speedup_ratio', _CLAIMED)}) > 0"
            ),
            decimals=1,
            trend=False,
            width=4,
            nothing="no run yet",
        ),
    ]


def _under_way() -> list[Panel]:
    expected, completed = _Q.metric("flowrt_batch_items_expected"), _Q.metric("flowrt_batch_items_completed")
    return [
        bound_by(),
        lines(
            "Items done, of those expected",
            "How the batches under way come along.",
            "short",
            Query(f"sum({completed})", "done"),
            Query(f"sum({expected})", "expected"),
            width=6,
            filled=True,
        ),
        items_by_status(width=6, links=[link_to("Nodes", to("flowrt-node")), runbook("FlowrtItemErrorBudgetBurn")]),
    ]


def _waiting() -> list[Panel]:
    return [
        lines(
            "Seconds waited per second",
            "How many items at a time wait for the rate limit or for their next attempt, as counted when they end.",
            "short",
            Query(f"sum({_Q.rate('flowrt_rate_limit_wait_seconds_total')})", "rate limit"),
            Query(f"sum({_Q.rate('flowrt_retry_backoff_seconds_total')})", "backoff"),
            width=8,
        ),
        lines(
            "From pulled to started",
            "How long an item waits for its first attempt.",
            "s",
            *percentiles(_Q, "flowrt_item_queue_wait_seconds", 0.5, 0.95, 0.99),
            width=8,
        ),
        in_flight(_Q, width=8, links=[runbook("FlowrtSaturated")]),
    ]


def _runs() -> list[Panel]:
    return [
        rows(
            "Batches",
            "How the runs of each batch went in the time shown.",
            ("batch",),
            [
                Column("Under way", f"sum by (batch) ({_Q.metric('flowrt_batches_active')})", "none"),
                *(
                    Column(
                        title, f"sum by (batch) ({_Q.increase('flowrt_batches_total', status)})", "short", decimals=0
                    )
                    for title, status in _ENDS
                ),
                Column("Unaccounted", f"max by (batch) ({_Q.metric('flowrt_unaccounted_items')})", "none"),
            ],
            row_links={"batch": [row_link("Only this batch", "flowrt-batch", "batch")]},
        ),
        lines(
            "How long runs take",
            "From a batch's start to its end.",
            "s",
            Query(
                "histogram_quantile(0.5, sum by (le) "
                f"({_Q.increase('flowrt_batch_duration_seconds_bucket', window='$__range')}))",
                "p50",
            ),
            Query(
                "histogram_quantile(0.95, sum by (le) "
                f"({_Q.increase('flowrt_batch_duration_seconds_bucket', window='$__range')}))",
                "p95",
            ),
            width=6,
        ),
        lines(
            "Speedup by run",
            "Over one item at a time, for the last run of each batch.",
            "suffix:×",
            Query(f"max by (batch, method) ({_Q.metric('flowrt_batch_speedup_ratio')})", "{{batch}} ({{method}})"),
            width=6,
        ),
    ]
