"""Panels that several dashboards share, and the thresholds of their colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import dashboard

from dashboards.generator.links import link_to, runbook, to
from dashboards.generator.panels import ERRORS, NEUTRAL, Panel, Query, heat, lines, number
from dashboards.generator.promql import AT_THE_END, FIRING, LARGEST, Chosen, culprits, largest
from dashboards.generator.recording import ENDED, FAILED
from dashboards.generator.tables import Column

__all__ = [
    "FAILING",
    "FAILING_CELL",
    "FAILING_SERIES",
    "FULL_CELL",
    "alerts_firing",
    "bound_by",
    "distribution",
    "failing",
    "failing_column",
    "failing_share",
    "holding",
    "in_flight",
    "item_durations",
    "items_by_status",
    "items_per_second",
    "loop_blocks",
    "percentiles",
    "queue_wait",
    "slots_in_use",
    "slots_rank",
    "slots_share",
]

Links = Sequence[dashboard.DashboardLink]

FAILING: Final = ((None, "green"), (0.01, "#EAB839"), (0.05, ERRORS))
FAILING_SERIES: Final = ((None, NEUTRAL), *FAILING[1:])
FAILING_CELL: Final = ((None, "transparent"), *FAILING[1:])
FULL: Final = ((None, "text"), (0.9, "#EAB839"), (0.98, "orange"))
FULL_CELL: Final = ((None, "transparent"), *FULL[1:])

BOUND: Final = (
    "Wall time of the batches by what held them back; the shares add up to 100 %. slots: every slot is busy and inputs "
    "are left, so raise max_concurrency if the service allows. service: every item left is running. tail: some of the "
    "last items run while slots are empty. rate_limit: your own limit. backoff: waits before retries, so look at the "
    "failures. loop_blocked: a node blocks the event loop. consumer: the reader of the results is slow. input: the "
    "source of the items is slow. paused: an operator has paused the batch."
)

_BATCHES: Final = Chosen("batch")


def percentiles(chosen: Chosen, histogram: str, *shares: float) -> list[Query]:
    """Return queries for a histogram's mean and percentiles.

    Args:
        chosen: The dashboard's variables.
        histogram: The metric.
        shares: The percentiles, from 0 to 1.
    """
    return [
        Query(chosen.mean(histogram), "mean"),
        *(Query(chosen.quantile(share, histogram), f"p{100 * share:g}") for share in shares),
    ]


def failing_share(chosen: Chosen, by: str = "") -> str:
    """Return the query for the share of items that failed or timed out, of those that ran to the end.

    Args:
        chosen: The dashboard's variables.
        by: Labels to keep.
    """
    grouped = f"sum by ({by})" if by else "sum"
    ended, failed = chosen.rate("flowrt_items_total", ENDED), chosen.rate("flowrt_items_total", FAILED)
    return f"{grouped} ({failed}) / ({grouped} ({ended}) > 0)"


def failing_column(chosen: Chosen, by: str) -> Column:
    """Return a table's column for the share of items that fail.

    Args:
        chosen: The dashboard's variables.
        by: Labels of a row.
    """
    return Column("Items failing", failing_share(chosen, by), "percentunit", FAILING_CELL, decimals=1)


def slots_share(chosen: Chosen, by: str = "") -> str:
    """Return the query for the share of slots that are busy.

    Args:
        chosen: The dashboard's variables.
        by: Labels to keep.
    """
    grouped = f"sum by ({by})" if by else "sum"
    busy, limit = chosen.rate("flowrt_slot_busy_seconds_total"), chosen.metric("flowrt_concurrency_limit")
    return f"{grouped} ({busy}) / ({grouped} ({limit}) > 0)"


def slots_rank(chosen: Chosen, by: str) -> str:
    """Return the query for the share of slots that are busy in the time shown, for `largest`.

    Args:
        chosen: The dashboard's variables.
        by: Labels to keep.
    """
    busy, limit = chosen.metric("flowrt_slot_busy_seconds_total"), chosen.metric("flowrt_concurrency_limit")
    used, most = f"increase({busy}{AT_THE_END})", f"max_over_time({limit}{AT_THE_END})"
    return f"sum by ({by}) ({used}) / (sum by ({by}) ({most}) > 0)"


def alerts_firing(description: str, *, links: Links = ()) -> Panel:
    """Stat: the number of alerts that fire.

    Args:
        description: Meaning of the number.
        links: Links in the panel's head.
    """
    return number(
        "Alerts firing (now)",
        description,
        "none",
        Query(f"count({FIRING}) or vector(0)"),
        steps=((None, "green"), (1, ERRORS)),
        filled=True,
        trend=False,
        width=3,
        links=links,
    )


def items_per_second() -> Panel:
    """Stat: the rate of items that end."""
    return number(
        "Items ended (/s, now)",
        "Items that ended, whatever their status.",
        "suffix: /s",
        Query(f"sum({_BATCHES.rate('flowrt_items_total')})"),
        decimals=1,
        width=3,
    )


def items_by_status(*, width: int, links: Links = ()) -> Panel:
    """Stack: the rate of items that end, by status.

    Args:
        width: Columns, of 24.
        links: Links in the panel's head.
    """
    return lines(
        "Items ended, by status (per second)",
        "A red band that grows means that more items fail: the Node dashboard has their errors.",
        "suffix: /s",
        Query(f"sum by (status) ({_BATCHES.rate('flowrt_items_total')})", "{{status}}"),
        stacked=True,
        width=width,
        links=links,
    )


def failing(chosen: Chosen, *, width: int = 4) -> Panel:
    """Stat: the share of items that fail.

    Args:
        chosen: The dashboard's variables.
        width: Columns, of 24.
    """
    return number(
        "Items failing (%, now)",
        "Share of the items that failed or timed out, of those that ran to the end.",
        "percentunit",
        Query(failing_share(chosen)),
        steps=FAILING,
        filled=True,
        trend=False,
        decimals=1,
        width=width,
        nothing="no items",
        links=[runbook("FlowrtItemErrorBudgetBurn")],
    )


def slots_in_use(chosen: Chosen, *, links: Links = ()) -> Panel:
    """Stat: the share of slots that are busy.

    Args:
        chosen: The dashboard's variables.
        links: Links in the panel's head.
    """
    return number(
        "Slots in use (%, now)",
        "Busy slots, of all slots. At 100 % the concurrency limit sets the pace.",
        "percentunit",
        Query(slots_share(chosen)),
        steps=FULL,
        decimals=0,
        width=3,
        links=links,
    )


def in_flight(chosen: Chosen, *, width: int = 12, links: Links = ()) -> Panel:
    """Lines: items that run and items that wait, under the limit.

    Args:
        chosen: The dashboard's variables.
        width: Columns, of 24.
        links: Links in the panel's head.
    """
    return lines(
        "In flight, waiting, and the limit (items)",
        "Items that occupy a slot, items that wait for a retry, a rate limit or an open circuit, and the slots.",
        "short",
        Query(f"sum({chosen.metric('flowrt_items_inflight')})", "in flight"),
        Query(f"sum({chosen.metric('flowrt_items_queued')})", "waiting"),
        Query(f"sum({chosen.metric('flowrt_concurrency_limit')})", "limit"),
        width=width,
        links=links,
    )


def queue_wait(chosen: Chosen, *, width: int = 12) -> Panel:
    """Lines: the time from an item's being pulled to its first attempt.

    Args:
        chosen: The dashboard's variables.
        width: Columns, of 24.
    """
    return lines(
        "Queue wait (s)",
        "Time from pulling an item to its first attempt. The mean is exact; a percentile below 5 ms, the histogram's "
        "first bucket, is not drawn.",
        "s",
        *percentiles(chosen, "flowrt_item_queue_wait_seconds", 0.95, 0.99),
        width=width,
        most=0.01,
    )


def item_durations(chosen: Chosen, *, width: int = 12) -> Panel:
    """Lines: how long items take, with traces as dots.

    Args:
        chosen: The dashboard's variables.
        width: Columns, of 24.
    """
    return lines(
        "Item duration (s)",
        "Time from pulling an item to its end, retries and waits included. A dot is a trace: click it to see the item.",
        "s",
        *percentiles(chosen, "flowrt_item_duration_seconds", 0.5, 0.95),
        Query(chosen.quantile(0.99, "flowrt_item_duration_seconds"), "p99", exemplars=True),
        width=width,
        links=[runbook("FlowrtLatencySLO")],
    )


def distribution(
    title: str, chosen: Chosen, histogram: str, *, row: str, what: str, exemplars: bool = False, width: int = 12
) -> Panel:
    """Heatmap of a histogram.

    Args:
        title: Quantity, with its unit in parentheses.
        chosen: The dashboard's variables.
        histogram: The metric.
        row: What a row is a range of.
        what: What is counted.
        exemplars: Show traces as dots.
        width: Columns, of 24.
    """
    return heat(
        title,
        f"Each column is a moment, each row a range of {row}; the brighter, the more {what}.",
        Query(f"sum by (le) ({chosen.rate(f'{histogram}_bucket')})", "{{le}}", exemplars=exemplars),
        width=width,
    )


def loop_blocks(chosen: Chosen, *, links: Links = ()) -> Panel:
    """Lines: how often each node blocks the event loop.

    Args:
        chosen: The dashboard's variables.
        links: Links in the panel's head, before the runbook.
    """
    return lines(
        "Event loop blocked, by node (times per minute)",
        f"Every other item waits meanwhile. The log event loop.blocked has the item and the stack. {LARGEST}",
        "short",
        Query(culprits(largest(f"60 * sum by (node) ({chosen.rate('flowrt_loop_stalls_total')})", "node")), "{{node}}"),
        shades=ERRORS,
        width=8,
        most=1,
        links=[*links, runbook("FlowrtEventLoopBlocked")],
    )


def bound_by(*, width: int = 12) -> Panel:
    """Stack: the wall time of batches by what held them back.

    Args:
        width: Columns, of 24.
    """
    return lines(
        "What holds the batches back (% of wall time)",
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
    """Stat: the largest cause of wall time.

    Args:
        width: Columns, of 24.
    """
    return number(
        "Held back by (% of time, now)",
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
