"""Overview: which node is failing, and why a batch is late, at a glance."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.frame import frame
from dashboards.generator.links import link_to, row_link, runbook, to
from dashboards.generator.panels import Panel, Query, lines, number
from dashboards.generator.promql import Chosen
from dashboards.generator.recording import ENDED, FAILED
from dashboards.generator.shared import (
    FAILING,
    FULL,
    alerts_firing,
    bound_by,
    distribution,
    failing,
    holding,
    in_flight,
    items_by_status,
    items_per_second,
    percentiles,
    slots_in_use,
)
from dashboards.generator.tables import Column, bars, rows

__all__ = ["overview"]

_Q: Final = Chosen("batch")


def overview() -> model.Dashboard:
    """The dashboard."""
    return frame(
        "flowrt-overview",
        "flowrt / Overview",
        "Which node is failing, why a batch is late, and how much there is room for.",
        [
            ("", _now()),
            ("Which node is failing, and why", _failing()),
            ("Why it is late", _late()),
            ("Rate and latency", _latency()),
        ],
        variables=("batch",),
        source="flowrt_batches_active",
    )


def _now() -> list[Panel]:
    return [
        alerts_firing(
            "Alerts of flowrt that fire now for the jobs chosen. Click for the objectives.",
            links=[link_to("Objectives", to("flowrt-slo"))],
        ),
        number(
            "Batches under way",
            "Batches that run now.",
            "none",
            Query(f"sum({_Q.metric('flowrt_batches_active')})"),
            width=3,
            links=[link_to("Batches", to("flowrt-batch")), runbook("FlowrtBatchStalled")],
        ),
        items_per_second(),
        failing(_Q, "The share of the items that failed or timed out, of those that were tried to the end."),
        number(
            "99 % take less than",
            "The 99th percentile of the time from an item's being pulled to its end, retries and waits included.",
            "s",
            Query(_Q.quantile(0.99, "flowrt_item_duration_seconds")),
            decimals=2,
            width=3,
            nothing="no items",
            links=[runbook("FlowrtLatencySLO")],
        ),
        slots_in_use(
            _Q,
            "Busy slots of those that there are. At 100 % the concurrency limit sets the pace.",
            links=[runbook("FlowrtSaturated")],
        ),
        holding(width=5),
    ]


def _failing() -> list[Panel]:
    per = "batch, node"
    ended, failed = _Q.rate("flowrt_items_total", ENDED), _Q.rate("flowrt_items_total", FAILED)
    busy, limit = _Q.rate("flowrt_slot_busy_seconds_total"), _Q.metric("flowrt_concurrency_limit")
    return [
        rows(
            "Nodes, the worst first",
            "One row for each node of each batch. Click a node to see where its time goes, a batch for its progress.",
            ("batch", "node"),
            [
                Column(
                    "Failing", f"sum by ({per}) ({failed}) / (sum by ({per}) ({ended}) > 0)", "percentunit", FAILING
                ),
                Column("Items/s", f"sum by ({per}) ({_Q.rate('flowrt_items_total')})", "short"),
                Column("Mean attempt", _Q.average("flowrt_attempt_duration_seconds", per), "s"),
                Column("Retries/s", f"sum by ({per}) ({_Q.rate('flowrt_item_retries_total')})", "short"),
                Column(
                    "Slots in use", f"sum by ({per}) ({busy}) / (sum by ({per}) ({limit}) > 0)", "percentunit", FULL
                ),
            ],
            width=14,
            height=6,
            sort="Failing",
            row_links={
                "node": [row_link("Where its time goes", "flowrt-node", "batch", "node")],
                "batch": [row_link("Its progress", "flowrt-batch", "batch")],
            },
        ),
        bars(
            "Why items fail",
            "Items that failed, by node and type of error, by the second: the longest bar is where to look first.",
            "suffix: /s",
            Query(
                f"topk(8, sum by (node, error_type) ({_Q.rate('flowrt_item_errors_total')}) > 0)",
                "{{node}}: {{error_type}}",
                instant=True,
            ),
            width=10,
            height=6,
            series_links=[link_to("The node", to("flowrt-node", node="${__field.labels.node}"))],
        ),
    ]


def _late() -> list[Panel]:
    return [
        bound_by(),
        in_flight(_Q, width=6),
        lines(
            "Event loop lag",
            "How late the event loop runs its timers. Above half a second something blocks it.",
            "s",
            *percentiles(_Q, "flowrt_event_loop_lag_seconds", 0.5, 0.99),
            width=6,
            links=[
                link_to("Runtime and telemetry health", to("flowrt-runtime")),
                runbook("FlowrtEventLoopBlocked"),
            ],
        ),
    ]


def _latency() -> list[Panel]:
    ended, failed = _Q.rate("flowrt_items_total", ENDED), _Q.rate("flowrt_items_total", FAILED)
    duration = "flowrt_item_duration_seconds"
    return [
        items_by_status(width=8),
        lines(
            "Failing, by node",
            "The share of each node's items that failed or timed out.",
            "percentunit",
            Query(f"sum by (batch, node) ({failed}) / (sum by (batch, node) ({ended}) > 0)", "{{batch}} / {{node}}"),
            width=8,
            steps=((None, "transparent"), (0.01, "red")),
            series_links=[
                link_to("The node", to("flowrt-node", batch="${__field.labels.batch}", node="${__field.labels.node}"))
            ],
        ),
        lines(
            "Slots in use, by node",
            "Busy slots of those that there are.",
            "percentunit",
            Query(
                f"sum by (batch, node) ({_Q.rate('flowrt_slot_busy_seconds_total')}) / "
                f"(sum by (batch, node) ({_Q.metric('flowrt_concurrency_limit')}) > 0)",
                "{{batch}} / {{node}}",
            ),
            width=8,
            most=1,
            links=[runbook("FlowrtSaturated")],
        ),
        lines(
            "How long items take",
            "From pulled to ended. A dot is a trace: click it to see that item.",
            "s",
            *percentiles(_Q, duration, 0.5, 0.95),
            Query(_Q.quantile(0.99, duration), "p99", exemplars=True),
            links=[runbook("FlowrtLatencySLO")],
        ),
        distribution("How long items take, all of them", _Q, duration, row="durations", what="items", exemplars=True),
    ]
