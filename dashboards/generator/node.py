"""Node: where an item's time goes, and why it fails."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.frame import frame
from dashboards.generator.links import link_to, runbook, to
from dashboards.generator.panels import Panel, Query, lines, number
from dashboards.generator.promql import Chosen
from dashboards.generator.recording import ENDED
from dashboards.generator.shared import distribution, failing, in_flight, percentiles, slots_in_use
from dashboards.generator.tables import bars

__all__ = ["node"]

_Q: Final = Chosen("batch", "node")

_CIRCUIT: Final = {"0": ("closed", "green"), "1": ("half-open", "yellow"), "2": ("open", "red")}


def node() -> model.Dashboard:
    """The dashboard."""
    return frame(
        "flowrt-node",
        "flowrt / Node",
        "Where an item's time goes, how often it is tried again, and why it fails.",
        [("", _now()), ("Where time goes", _time()), ("Why items fail", _failures()), ("Capacity", _capacity())],
        variables=("batch", "node"),
        source="flowrt_items_total",
    )


def _now() -> list[Panel]:
    ended = _Q.rate("flowrt_items_total", ENDED)
    return [
        failing(_Q, "The share of the items that failed or timed out."),
        number(
            "Most frequent error",
            "The type of error that most items failed with, and how many a second did.",
            "suffix: /s",
            Query(f"topk(1, sum by (error_type) ({_Q.rate('flowrt_item_errors_total')}) > 0)", "{{error_type}}"),
            named=True,
            trend=False,
            decimals=2,
            width=6,
            nothing="none",
        ),
        number(
            "Attempts per item",
            "How often an item is tried on the average: above 1, retries.",
            "none",
            Query(f"sum({_Q.rate('flowrt_item_attempts_total')}) / (sum({ended}) > 0)"),
            decimals=2,
            nothing="no items",
        ),
        number(
            "Mean attempt",
            "The mean time that one attempt takes.",
            "s",
            Query(
                f"sum({_Q.rate('flowrt_attempt_duration_seconds_sum')}) / "
                f"(sum({_Q.rate('flowrt_attempt_duration_seconds_count')}) > 0)"
            ),
            decimals=2,
            nothing="no items",
        ),
        slots_in_use(_Q, "Busy slots of those that there are."),
        _circuit(),
    ]


def _circuit() -> Panel:
    return number(
        "Circuit",
        "The worst state of the circuit breakers: while one is open, no item is tried.",
        "none",
        Query(f"max({_Q.metric('flowrt_circuit_state')})"),
        trend=False,
        width=3,
        nothing="none",
        names=_CIRCUIT,
    )


def _time() -> list[Panel]:
    items = f"(sum({_Q.rate('flowrt_items_total', ENDED)}) > 0)"
    attempt = "flowrt_attempt_duration_seconds"
    return [
        lines(
            "Where an item's time goes",
            "Seconds per item, on the average: in attempts, between them, waiting for the rate limit. Waits count "
            "when the item ends.",
            "s",
            Query(f"sum({_Q.rate(f'{attempt}_sum')}) / {items}", "service"),
            Query(f"sum({_Q.rate('flowrt_retry_backoff_seconds_total')}) / {items}", "backoff"),
            Query(f"sum({_Q.rate('flowrt_rate_limit_wait_seconds_total')}) / {items}", "rate_limit"),
            stacked=True,
        ),
        lines(
            "How long one attempt takes",
            "The service time: what the node itself takes, without waits and retries.",
            "s",
            *percentiles(_Q, attempt, 0.5, 0.95, 0.99),
        ),
        lines(
            "How long items take",
            "From pulled to ended, by how they ended. A dot is a trace: click it to see that item.",
            "s",
            Query(_Q.quantile(0.95, "flowrt_item_duration_seconds", 'status="ok"'), "ok", exemplars=True),
            Query(_Q.quantile(0.95, "flowrt_item_duration_seconds", 'status="failed"'), "failed", exemplars=True),
            links=[runbook("FlowrtLatencySLO")],
        ),
        distribution("How long one attempt takes, all of them", _Q, attempt, row="durations", what="attempts"),
    ]


def _failures() -> list[Panel]:
    return [
        bars(
            "Errors by type",
            "Items that failed in the time shown, by type of error.",
            "short",
            Query(
                f"topk(10, sum by (node, error_type) ({_Q.increase('flowrt_item_errors_total')}) > 0)",
                "{{node}}: {{error_type}}",
                instant=True,
            ),
            width=8,
        ),
        lines(
            "Errors by type, over time",
            "Items that failed, by type of error.",
            "suffix: /s",
            Query(f"sum by (error_type) ({_Q.rate('flowrt_item_errors_total')})", "{{error_type}}"),
            width=8,
            stacked=True,
            links=[runbook("FlowrtItemErrorBudgetBurn")],
        ),
        lines(
            "Retries by reason",
            "Further attempts, by why one was needed.",
            "suffix: /s",
            Query(f"sum by (reason) ({_Q.rate('flowrt_item_retries_total')})", "{{reason}}"),
            width=8,
            stacked=True,
        ),
        lines(
            "Attempts by how they ended",
            "Attempts that ended, retries included.",
            "suffix: /s",
            Query(f"sum by (status) ({_Q.rate('flowrt_item_attempts_total')})", "{{status}}"),
            width=8,
            stacked=True,
        ),
        lines(
            "Hedges",
            "Second attempts sent for slow items, by how they turned out.",
            "suffix: /s",
            Query(f"sum by (outcome) ({_Q.rate('flowrt_item_hedges_total')})", "{{outcome}}"),
            width=8,
            stacked=True,
        ),
        lines(
            "Times that a node blocked the event loop",
            "Each kept every other item waiting. The log event loop.blocked has the stack.",
            "short",
            Query(
                f"sum by (node) ({_Q.increase('flowrt_loop_stalls_total', window='$__rate_interval')})",
                "{{node}}",
            ),
            width=8,
            links=[link_to("Runtime", to("flowrt-runtime")), runbook("FlowrtEventLoopBlocked")],
        ),
    ]


def _capacity() -> list[Panel]:
    return [
        in_flight(_Q),
        lines(
            "From pulled to started",
            "How long an item waits for its first attempt.",
            "s",
            *percentiles(_Q, "flowrt_item_queue_wait_seconds", 0.5, 0.99),
        ),
    ]
