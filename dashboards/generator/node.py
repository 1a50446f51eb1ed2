"""Node dashboard: where an item's time goes, how often it is retried, and why it fails."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.frame import frame
from dashboards.generator.links import link_to, runbook, to
from dashboards.generator.panels import ERRORS, Panel, Query, lines, number
from dashboards.generator.promql import Chosen
from dashboards.generator.recording import ENDED
from dashboards.generator.shared import (
    distribution,
    failing,
    in_flight,
    loop_blocks,
    percentiles,
    queue_wait,
    slots_in_use,
)
from dashboards.generator.tables import bars

__all__ = ["node"]

_Q: Final = Chosen("batch", "node")

_CIRCUIT: Final = {"0": ("closed", "text"), "1": ("half-open", "yellow"), "2": ("open", ERRORS)}


def node() -> model.Dashboard:
    """Build the dashboard."""
    return frame(
        "flowrt-node",
        "flowrt / Node",
        "Where an item's time goes, how often it is retried, and why it fails.",
        [("", _now()), ("Where time goes", _time()), ("Why items fail", _failures()), ("Capacity", _capacity())],
        variables=("batch", "node"),
        source="flowrt_items_total",
    )


def _now() -> list[Panel]:
    ended = _Q.rate("flowrt_items_total", ENDED)
    return [
        failing(_Q),
        number(
            "Most frequent error (per second, now)",
            "Type of error that most items failed with, and the number of items per second that did.",
            "suffix: /s",
            Query(f"topk(1, sum by (error_type) ({_Q.rate('flowrt_item_errors_total')}) > 0)", "{{error_type}}"),
            steps=((None, ERRORS),),
            named=True,
            trend=False,
            decimals=2,
            width=6,
            nothing="no failures",
        ),
        number(
            "Attempts/item (mean, now)",
            "Above 1, items are retried.",
            "none",
            Query(f"sum({_Q.rate('flowrt_item_attempts_total')}) / (sum({ended}) > 0)"),
            decimals=2,
            nothing="no items",
        ),
        number(
            "Attempt duration (mean, now)",
            "Service time: what the node itself takes, without waits and retries.",
            "s",
            Query(_Q.mean("flowrt_attempt_duration_seconds")),
            decimals=2,
            nothing="no items",
        ),
        slots_in_use(_Q),
        _circuit(),
    ]


def _circuit() -> Panel:
    return number(
        "Circuit (now)",
        "Worst state of the circuit breakers. While one is open, no item is tried; without a breaker it is closed.",
        "none",
        Query(f"max({_Q.metric('flowrt_circuit_state')})"),
        trend=False,
        width=3,
        nothing="no items",
        names=_CIRCUIT,
    )


def _time() -> list[Panel]:
    items = f"(sum({_Q.rate('flowrt_items_total', ENDED)}) > 0)"
    attempt = "flowrt_attempt_duration_seconds"
    return [
        lines(
            "Time per item, by cause (mean, s)",
            "Time in attempts (service), between them (backoff), and waiting for the rate limit. A wait counts when "
            "the item ends.",
            "s",
            Query(f"sum({_Q.rate(f'{attempt}_sum')}) / {items}", "service"),
            Query(f"sum({_Q.rate('flowrt_retry_backoff_seconds_total')}) / {items}", "backoff"),
            Query(f"sum({_Q.rate('flowrt_rate_limit_wait_seconds_total')}) / {items}", "rate_limit"),
            stacked=True,
        ),
        lines(
            "Attempt duration (s)",
            "Service time: what the node itself takes, without waits and retries.",
            "s",
            *percentiles(_Q, attempt, 0.5, 0.95, 0.99),
        ),
        lines(
            "Item duration, by status (p95, s)",
            "Time from pulling an item to its end. A dot is a trace: click it to see that item.",
            "s",
            Query(_Q.quantile(0.95, "flowrt_item_duration_seconds", 'status="ok"'), "ok", exemplars=True),
            Query(_Q.quantile(0.95, "flowrt_item_duration_seconds", 'status="failed"'), "failed", exemplars=True),
            links=[runbook("FlowrtLatencySLO")],
        ),
        distribution("Attempt duration, all attempts (s)", _Q, attempt, row="durations", what="attempts"),
    ]


def _failures() -> list[Panel]:
    return [
        bars(
            "Errors by type (items, time shown)",
            "Failed items by type of error. Start with the longest bar.",
            "short",
            Query(
                f"topk(10, sum by (node, error_type) ({_Q.increase('flowrt_item_errors_total')}) > 0)",
                "{{node}}: {{error_type}}",
                instant=True,
            ),
            nothing="no failures",
            width=8,
        ),
        lines(
            "Errors by type (per second)",
            "Failed items by type of error: since when, and together with which other type.",
            "suffix: /s",
            Query(f"sum by (error_type) ({_Q.rate('flowrt_item_errors_total')})", "{{error_type}}"),
            width=8,
            stacked=True,
            shades=ERRORS,
            links=[runbook("FlowrtItemErrorBudgetBurn")],
        ),
        lines(
            "Retries by reason (per second)",
            "Further attempts, by the reason for the retry.",
            "suffix: /s",
            Query(f"sum by (reason) ({_Q.rate('flowrt_item_retries_total')})", "{{reason}}"),
            width=8,
            most=1,
            stacked=True,
        ),
        lines(
            "Attempts by status (per second)",
            "Attempts that ended, retries included.",
            "suffix: /s",
            Query(f"sum by (status) ({_Q.rate('flowrt_item_attempts_total')})", "{{status}}"),
            width=8,
            stacked=True,
        ),
        lines(
            "Hedges by outcome (per second)",
            "Second attempts sent for slow items.",
            "suffix: /s",
            Query(f"sum by (outcome) ({_Q.rate('flowrt_item_hedges_total')})", "{{outcome}}"),
            width=8,
            most=1,
            stacked=True,
        ),
        loop_blocks(_Q, links=[link_to("Runtime", to("flowrt-runtime"))]),
    ]


def _capacity() -> list[Panel]:
    return [
        in_flight(_Q, width=8),
        queue_wait(_Q, width=8),
        lines(
            "Cache look-ups by result (per second)",
            "Items whose input was looked up in the cache; a hit does not run.",
            "suffix: /s",
            Query(f"sum by (result) ({_Q.rate('flowrt_cache_lookups_total')})", "{{result}}"),
            width=8,
            most=1,
            stacked=True,
        ),
    ]
