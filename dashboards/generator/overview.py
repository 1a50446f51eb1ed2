"""Overview dashboard: which node fails, and why a batch is late."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.frame import frame
from dashboards.generator.links import link_to, row_link, runbook, to
from dashboards.generator.panels import Panel, Query, lines, number
from dashboards.generator.promql import LARGEST, Chosen, largest
from dashboards.generator.shared import (
    FAILING_SERIES,
    FULL_CELL,
    alerts_firing,
    bound_by,
    distribution,
    failing,
    failing_column,
    failing_share,
    holding,
    in_flight,
    item_durations,
    items_by_status,
    items_per_second,
    percentiles,
    slots_in_use,
    slots_rank,
    slots_share,
)
from dashboards.generator.tables import Column, bars, rows

__all__ = ["overview"]

_Q: Final = Chosen("batch")
_NODE: Final = "batch, node"


def overview() -> model.Dashboard:
    """Build the dashboard."""
    return frame(
        "flowrt-overview",
        "flowrt / Overview",
        "Which node fails, why a batch is late, and how much capacity is left.",
        [
            ("", _now()),
            ("Which node fails, and why", _failing()),
            ("Why it is late", _late()),
            ("Rate and latency", _latency()),
        ],
        variables=("batch",),
        source="flowrt_batches_active",
    )


def _now() -> list[Panel]:
    return [
        alerts_firing(
            "Alerts of flowrt that fire for the chosen jobs. The SLO dashboard lists them.",
            links=[link_to("Objectives", to("flowrt-slo"))],
        ),
        failing(_Q),
        number(
            "Batches active (now)",
            "Batches that run.",
            "none",
            Query(f"sum({_Q.metric('flowrt_batches_active')})"),
            width=3,
            links=[link_to("Batches", to("flowrt-batch")), runbook("FlowrtBatchStalled")],
        ),
        items_per_second(),
        number(
            "Duration (p99, now)",
            "99 % of the items take less than this from being pulled to their end, retries and waits included.",
            "s",
            Query(_Q.at_most(0.99, "flowrt_item_duration_seconds")),
            decimals=2,
            width=3,
            nothing="no items",
            links=[runbook("FlowrtLatencySLO")],
        ),
        slots_in_use(_Q, links=[runbook("FlowrtSaturated")]),
        holding(width=5),
    ]


def _failing() -> list[Panel]:
    return [
        rows(
            "Nodes, worst first (now)",
            "One row per node of each batch. Click a node to see where its time goes, a batch for its progress.",
            ("batch", "node"),
            [
                failing_column(_Q, _NODE),
                Column("Items/s", f"sum by ({_NODE}) ({_Q.rate('flowrt_items_total')})", "short"),
                Column("Mean attempt", _Q.mean("flowrt_attempt_duration_seconds", _NODE), "s"),
                Column("Retries/s", f"sum by ({_NODE}) ({_Q.rate('flowrt_item_retries_total')})", "short"),
                Column("Slots in use", slots_share(_Q, _NODE), "percentunit", FULL_CELL),
            ],
            width=14,
            height=7,
            sort="Items failing",
            row_links={
                "node": [row_link("Where its time goes", "flowrt-node", "batch", "node")],
                "batch": [row_link("Its progress", "flowrt-batch", "batch")],
            },
        ),
        bars(
            "Why items fail (per second, now)",
            "Failed items by node and type of error. Start with the longest bar.",
            "suffix: /s",
            Query(
                f"topk(8, sum by (node, error_type) ({_Q.rate('flowrt_item_errors_total')}) > 0)",
                "{{node}}: {{error_type}}",
                instant=True,
            ),
            nothing="no failures",
            width=10,
            height=7,
            series_links=[link_to("The node", to("flowrt-node", node="${__field.labels.node}"))],
        ),
    ]


def _late() -> list[Panel]:
    return [
        bound_by(),
        in_flight(_Q, width=6),
        lines(
            "Event loop lag (s)",
            "Delay of the event loop's timers. Above half a second a node blocks the loop.",
            "s",
            *percentiles(_Q, "flowrt_event_loop_lag_seconds", 0.99),
            width=6,
            links=[
                link_to("Runtime and telemetry health", to("flowrt-runtime")),
                runbook("FlowrtEventLoopBlocked"),
            ],
        ),
    ]


def _latency() -> list[Panel]:
    duration = "flowrt_item_duration_seconds"
    return [
        items_by_status(width=8),
        lines(
            "Items failing, by node (%)",
            f"Share of each node's items that failed or timed out. {LARGEST}",
            "percentunit",
            Query(largest(failing_share(_Q, _NODE), _NODE), "{{batch}} / {{node}}"),
            width=8,
            by_value=FAILING_SERIES,
            series_links=[
                link_to("The node", to("flowrt-node", batch="${__field.labels.batch}", node="${__field.labels.node}"))
            ],
        ),
        lines(
            "Slots in use, by node (%)",
            f"Busy slots, of all slots. At 100 % the concurrency limit sets the pace. {LARGEST}",
            "percentunit",
            Query(largest(slots_share(_Q, _NODE), _NODE, slots_rank(_Q, _NODE)), "{{batch}} / {{node}}"),
            width=8,
            most=1,
            links=[runbook("FlowrtSaturated")],
        ),
        item_durations(_Q),
        distribution("Item duration, all items (s)", _Q, duration, row="durations", what="items", exemplars=True),
    ]
