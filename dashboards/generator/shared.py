"""Panels that more than one dashboard has, and the colours of the shares that they tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import dashboard

from dashboards.generator.links import link_to, runbook, to
from dashboards.generator.panels import Panel, Query, heat, lines, number
from dashboards.generator.promql import FIRING, Chosen
from dashboards.generator.recording import ENDED, FAILED

__all__ = [
    "FAILING",
    "FULL",
    "alerts_firing",
    "bound_by",
    "distribution",
    "failing",
    "holding",
    "in_flight",
    "items_by_status",
    "items_per_second",
    "percentiles",
    "slots_in_use",
]

Links = Sequence[dashboard.DashboardLink]

FAILING: Final = ((None, "green"), (0.01, "#EAB839"), (0.05, "red"))
FULL: Final = ((None, "text"), (0.9, "#EAB839"), (0.98, "orange"))

BOUND: Final = (
    "Wall time of the batches by what held them back; the parts add up to all of it. slots: every slot is busy and "
    "items are left, so raise max_concurrency if the service can take it. service: every item that is left runs. "
    "tail: some of the last ones run while slots stand empty. rate_limit: your own limit. backoff: waits before "
    "retries, so look at the failures. loop_blocked: a node blocks the event loop. consumer: whoever reads the results "
    "is slow. input: whatever yields the items is slow."
)

_BATCHES: Final = Chosen("batch")


def percentiles(chosen: Chosen, histogram: str, *shares: float) -> list[Query]:
    """Queries for percentiles of a histogram, each called `p` and its number.

    Args:
        chosen: What the dashboard's variables choose.
        histogram: The metric.
        shares: Which ones, from 0 to 1.
    """
    return [Query(chosen.quantile(share, histogram), f"p{100 * share:g}") for share in shares]


def alerts_firing(description: str, *, links: Links = ()) -> Panel:
    """How many alerts fire.

    Args:
        description: What it means.
        links: From the panel's head.
    """
    return number(
        "Alerts firing",
        description,
        "none",
        Query(f"count({FIRING}) or vector(0)"),
        steps=((None, "green"), (1, "red")),
        filled=True,
        trend=False,
        width=3,
        links=links,
    )


def items_per_second() -> Panel:
    """How many items end."""
    return number(
        "Items per second",
        "Items that ended in any way.",
        "suffix: /s",
        Query(f"sum({_BATCHES.rate('flowrt_items_total')})"),
        decimals=1,
        width=3,
    )


def items_by_status(*, width: int, links: Links = ()) -> Panel:
    """How many items end, stacked by how.

    Args:
        width: Of 24.
        links: From the panel's head.
    """
    return lines(
        "Items per second by how they ended",
        "Items that ended, by status.",
        "suffix: /s",
        Query(f"sum by (status) ({_BATCHES.rate('flowrt_items_total')})", "{{status}}"),
        stacked=True,
        width=width,
        links=links,
    )


def failing(chosen: Chosen, description: str) -> Panel:
    """The share of items that fail.

    Args:
        chosen: What the dashboard's variables choose.
        description: What it means.
    """
    ended, failed = chosen.rate("flowrt_items_total", ENDED), chosen.rate("flowrt_items_total", FAILED)
    return number(
        "Failing",
        description,
        "percentunit",
        Query(f"sum({failed}) / (sum({ended}) > 0)"),
        steps=FAILING,
        filled=True,
        trend=False,
        decimals=1,
        nothing="no items",
        links=[runbook("FlowrtItemErrorBudgetBurn")],
    )


def slots_in_use(chosen: Chosen, description: str, *, links: Links = ()) -> Panel:
    """The share of slots that are busy.

    Args:
        chosen: What the dashboard's variables choose.
        description: What it means.
        links: From the panel's head.
    """
    busy, limit = chosen.rate("flowrt_slot_busy_seconds_total"), chosen.metric("flowrt_concurrency_limit")
    return number(
        "Slots in use",
        description,
        "percentunit",
        Query(f"sum({busy}) / (sum({limit}) > 0)"),
        steps=FULL,
        decimals=0,
        width=3,
        links=links,
    )


def in_flight(chosen: Chosen, *, width: int = 12, links: Links = ()) -> Panel:
    """Items that run and items that wait, under the limit.

    Args:
        chosen: What the dashboard's variables choose.
        width: Of 24.
        links: From the panel's head.
    """
    return lines(
        "In flight, waiting, and the limit",
        "Items that occupy a slot, items that wait for a retry, a rate limit or an open circuit, and the slots "
        "that there are.",
        "short",
        Query(f"sum({chosen.metric('flowrt_items_inflight')})", "in flight"),
        Query(f"sum({chosen.metric('flowrt_items_queued')})", "waiting"),
        Query(f"sum({chosen.metric('flowrt_concurrency_limit')})", "limit"),
        width=width,
        links=links,
    )


def distribution(
    title: str, chosen: Chosen, histogram: str, *, row: str, what: str, exemplars: bool = False, width: int = 12
) -> Panel:
    """A histogram's buckets over time.

    Args:
        title: What it is.
        chosen: What the dashboard's variables choose.
        histogram: The metric.
        row: What a row is a range of.
        what: What is counted.
        exemplars: Whether to show traces as dots.
        width: Of 24.
    """
    return heat(
        title,
        f"Each column is a moment, each row a range of {row}; the brighter, the more {what}.",
        Query(f"sum by (le) ({chosen.rate(f'{histogram}_bucket')})", "{{le}}", exemplars=exemplars),
        width=width,
    )


def bound_by(*, width: int = 12) -> Panel:
    """The stack of what held the batches back."""
    return lines(
        "What holds the batches back",
        BOUND,
        "percentunit",
        Query(_shares_of_bound(), "{{by}}"),
        stacked=True,
        most=1,
        width=width,
        links=[link_to("Batches", to("flowrt-batch")), runbook("FlowrtSaturated")],
    )


def _shares_of_bound() -> str:
    bound = _BATCHES.rate("flowrt_bound_seconds_total")
    return f"sum by (by) ({bound}) / on () group_left () (sum({bound}) > 0)"


def holding(*, width: int = 5) -> Panel:
    """The one thing that holds the batches back most."""
    return number(
        "Held back mostly by",
        BOUND,
        "percentunit",
        Query(f"topk(1, {_shares_of_bound()})", "{{by}}"),
        named=True,
        trend=False,
        decimals=0,
        width=width,
        nothing="no batch",
        steps=((None, "text"),),
    )
