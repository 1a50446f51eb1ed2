"""SLO: what is promised, what is left of it, and how fast it is being used up."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.alerts import BURNS
from dashboards.generator.frame import frame
from dashboards.generator.links import runbook
from dashboards.generator.objectives import FAILURE_RATIO, LATE_RATIO
from dashboards.generator.panels import Panel, Query, lines, number
from dashboards.generator.promql import FIRING, recorded
from dashboards.generator.recording import BURN_WINDOWS
from dashboards.generator.shared import alerts_firing
from dashboards.generator.tables import Column, rows

__all__ = ["slo"]

_BURNING = ((None, "green"), (1, "#EAB839"), (6, "orange"), (14.4, "red"))
_LEFT = ((None, "red"), (0, "orange"), (0.25, "#EAB839"), (0.5, "green"))
_FAILURES = "job_batch:flowrt_item_failures:ratio_rate"
_LATE = "job_batch:flowrt_items_late:ratio_rate"


def slo() -> model.Dashboard:
    """The dashboard."""
    return frame(
        "flowrt-slo",
        "flowrt / SLO",
        "What is promised, what is left of it over 30 days, and how fast it is being used up.",
        [
            ("", _now()),
            ("How fast the budgets burn: 1 is as fast as they may", _burn()),
            ("Over time", _time()),
        ],
        variables=("batch",),
        source="flowrt_batches_active",
    )


def _ratio(prefix: str, window: str) -> str:
    return recorded(f"{prefix}{window}", "batch")


def _now() -> list[Panel]:
    left = f"1 - {_ratio(_FAILURES, '30d')} / scalar({FAILURE_RATIO})"
    return [
        number(
            "Error budget left",
            "Of 30 days, for the batch that has least. Below 0 the objective is missed.",
            "percentunit",
            Query(f"min({left})"),
            steps=_LEFT,
            filled=True,
            trend=False,
            decimals=0,
            width=5,
            nothing="no items",
            links=[runbook("FlowrtItemErrorBudgetBurn")],
        ),
        number(
            "Burning now",
            "How many times faster than it may the error budget goes, over the last hour, for the worst batch.",
            "suffix:×",
            Query(f"max({_ratio(_FAILURES, '1h')} / scalar({FAILURE_RATIO}))"),
            steps=_BURNING,
            decimals=1,
            width=5,
            nothing="no items",
            links=[runbook("FlowrtItemErrorBudgetBurn")],
        ),
        number(
            "Late items burn",
            "How many times more often than they may items take longer than the threshold, over the last hour.",
            "suffix:×",
            Query(f"max({_ratio(_LATE, '1h')} / scalar({LATE_RATIO}))"),
            steps=_BURNING,
            decimals=1,
            width=5,
            nothing="no items",
            links=[runbook("FlowrtLatencySLO")],
        ),
        number(
            "Items may fail",
            "The objective, as it stands in flowrt.objectives.yaml.",
            "percentunit",
            Query(f"max({FAILURE_RATIO})"),
            trend=False,
            width=3,
        ),
        number(
            "Items may be late",
            "The objective, as it stands in flowrt.objectives.yaml with its threshold.",
            "percentunit",
            Query(f"max({LATE_RATIO})"),
            trend=False,
            width=3,
        ),
        alerts_firing("Alerts of flowrt that fire now for the jobs chosen."),
    ]


def _burn() -> list[Panel]:
    return [
        rows(
            "Error budget, by batch and window",
            "Left is what remains of the budget of 30 days. An alert fires when both windows of a pair burn too fast: "
            + ", ".join(f"{burn.long} and {burn.short} above {burn.factor:g}" for burn in BURNS)
            + ".",
            ("job", "batch"),
            [
                Column(window, f"{_ratio(_FAILURES, window)} / scalar({FAILURE_RATIO})", "suffix:×", _BURNING)
                for window in BURN_WINDOWS
            ]
            + [Column("Left", f"1 - {_ratio(_FAILURES, '30d')} / scalar({FAILURE_RATIO})", "percentunit", _LEFT)],
            height=6,
            links=[runbook("FlowrtItemErrorBudgetBurn")],
        ),
        rows(
            "Late items, by batch and window",
            "The same for items that took longer than the threshold.",
            ("job", "batch"),
            [
                Column(window, f"{_ratio(_LATE, window)} / scalar({LATE_RATIO})", "suffix:×", _BURNING)
                for window in BURN_WINDOWS
            ],
            height=6,
            links=[runbook("FlowrtLatencySLO")],
        ),
    ]


def _time() -> list[Panel]:
    windows = sorted({window for burn in BURNS for window in (burn.long, burn.short)}, key=BURN_WINDOWS.index)
    return [
        lines(
            "How fast the error budget burns, by window",
            "The worst batch. The lines are where the alerts are.",
            "suffix:×",
            *(
                Query(f"max({_ratio(_FAILURES, window)} / scalar({FAILURE_RATIO}))", f"over {window}")
                for window in windows
            ),
            steps=((None, "transparent"), (1, "#EAB839"), (6, "orange"), (14.4, "red")),
        ),
        lines(
            "Failing, by batch",
            "The share of the items that failed or timed out, over five minutes.",
            "percentunit",
            Query(_ratio(_FAILURES, "5m"), "{{job}} / {{batch}}"),
            width=6,
            most=0.01,
        ),
        lines(
            "Late, by batch",
            "The share of the successful items that took longer than the threshold, over five minutes.",
            "percentunit",
            Query(_ratio(_LATE, "5m"), "{{job}} / {{batch}}"),
            width=6,
            most=0.01,
        ),
        rows(
            "Alerts firing",
            "What fires now. The severity says how urgent it is, the runbook what to do.",
            ("alertname", "severity", "batch", "node", "instance"),
            [
                Column(
                    "Firing",
                    f"max by (alertname, severity, batch, node, instance) ({FIRING})",
                    "none",
                )
            ],
            height=7,
            widths={"alertname": 230, "instance": 140},
            row_links={
                "alertname": [{"title": "Runbooks", "url": "/d/flowrt-runbooks/"}],
            },
        ),
        lines(
            "Items that count for the objectives",
            "Without traffic nothing burns: items that ended in any way that counts, by the second.",
            "suffix: /s",
            Query(recorded("job_batch:flowrt_items_ended:rate5m", "batch"), "{{job}} / {{batch}}"),
            height=7,
        ),
    ]
