"""Overview: which node is failing, and why a batch is late, at a glance."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.frame import frame
from dashboards.links import link_to, row_link, runbook, to
from dashboards.panels import Panel, Query, heat, lines, number
from dashboards.promql import Chosen
from dashboards.recording import ENDED, FAILED
from dashboards.tables import Column, bars, rows

__all__ = ["BOUND", "FAILING", "bound_by", "holding", "overview"]

_Q: Final = Chosen("batch")

FAILING: Final = ((None, "green"), (0.01, "#EAB839"), (0.05, "red"))
FULL: Final = ((None, "text"), (0.9, "#EAB839"), (0.98, "orange"))

BOUND: Final = (
    "Wall time of the batches by what held them back; the parts add up to all of it. slots: every slot is busy and "
    "items are left, so raise max_concurrency if the service can take it. service: every item that is left runs. "
    "tail: some of the last ones run while slots stand empty. rate_limit: your own limit. backoff: waits before "
    "retries, so look at the failures. loop_blocked: a node blocks the event loop. consumer: whoever reads the results "
    "is slow. input: whatever yields the items is slow."
)


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
    ended, failed = _Q.rate("flowrt_items_total", ENDED), _Q.rate("flowrt_items_total", FAILED)
    busy, limit = _Q.rate("flowrt_slot_busy_seconds_total"), _Q.metric("flowrt_concurrency_limit")
    return [
        number(
            "Alerts firing",
            "Alerts of flowrt that fire now for the jobs chosen. Click for the objectives.",
            "none",
            Query('count(ALERTS{alertname=~"Flowrt.+", alertstate="firing", job=~"$job"}) or vector(0)'),
            steps=((None, "green"), (1, "red")),
            filled=True,
            trend=False,
            width=3,
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
        number(
            "Items per second",
            "Items that ended in any way.",
            "suffix: /s",
            Query(f"sum({_Q.rate('flowrt_items_total')})"),
            decimals=1,
            width=3,
        ),
        number(
            "Failing",
            "The share of the items that failed or timed out, of those that were tried to the end.",
            "percentunit",
            Query(f"sum({failed}) / (sum({ended}) > 0)"),
            steps=FAILING,
            filled=True,
            trend=False,
            decimals=1,
            nothing="no items",
            links=[runbook("FlowrtItemErrorBudgetBurn")],
        ),
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
        number(
            "Slots in use",
            "Busy slots of those that there are. At 100 % the concurrency limit sets the pace.",
            "percentunit",
            Query(f"sum({busy}) / (sum({limit}) > 0)"),
            steps=FULL,
            decimals=0,
            width=3,
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


def bound_by(*, width: int = 12) -> Panel:
    """The stack of what held the batches back."""
    return lines(
        "What holds the batches back",
        BOUND,
        "percentunit",
        Query(f"sum by (by) ({_Q.rate('flowrt_bound_seconds_total')}) / on () group_left () {_held()}", "{{by}}"),
        stacked=True,
        most=1,
        width=width,
        links=[link_to("Batches", to("flowrt-batch")), runbook("FlowrtSaturated")],
    )


def _held() -> str:
    return f"(sum({_Q.rate('flowrt_bound_seconds_total')}) > 0)"


def holding(*, width: int = 5) -> Panel:
    """The one thing that holds the batches back most."""
    return number(
        "Held back mostly by",
        BOUND,
        "percentunit",
        Query(
            f"topk(1, sum by (by) ({_Q.rate('flowrt_bound_seconds_total')}) / on () group_left () {_held()})", "{{by}}"
        ),
        named=True,
        trend=False,
        decimals=0,
        width=width,
        nothing="no batch",
        steps=((None, "text"),),
    )


def _late() -> list[Panel]:
    return [
        bound_by(),
        lines(
            "In flight, waiting, and the limit",
            "Items that occupy a slot, items that wait for a retry, a rate limit or an open circuit, and the slots "
            "that there are.",
            "short",
            Query(f"sum({_Q.metric('flowrt_items_inflight')})", "in flight"),
            Query(f"sum({_Q.metric('flowrt_items_queued')})", "waiting"),
            Query(f"sum({_Q.metric('flowrt_concurrency_limit')})", "limit"),
            width=6,
        ),
        lines(
            "Event loop lag",
            "How late the event loop runs its timers. Above half a second something blocks it.",
            "s",
            Query(_Q.quantile(0.5, "flowrt_event_loop_lag_seconds"), "p50"),
            Query(_Q.quantile(0.99, "flowrt_event_loop_lag_seconds"), "p99"),
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
        lines(
            "Items per second by how they ended",
            "Items that ended, by status.",
            "suffix: /s",
            Query(f"sum by (status) ({_Q.rate('flowrt_items_total')})", "{{status}}"),
            stacked=True,
            width=8,
        ),
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
            Query(_Q.quantile(0.5, duration), "p50"),
            Query(_Q.quantile(0.95, duration), "p95"),
            Query(_Q.quantile(0.99, duration), "p99", exemplars=True),
            links=[runbook("FlowrtLatencySLO")],
        ),
        heat(
            "How long items take, all of them",
            "Each column is a moment, each row a range of durations; the brighter, the more items.",
            Query(f"sum by (le) ({_Q.rate(f'{duration}_bucket')})", "{{le}}", exemplars=True),
        ),
    ]
