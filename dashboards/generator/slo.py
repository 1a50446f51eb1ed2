"""SLO dashboard: the objectives, the error budget left, and how fast it burns."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.alerts import BURNS
from dashboards.generator.frame import frame
from dashboards.generator.links import runbook
from dashboards.generator.objectives import FAILURE_RATIO, LATE_RATIO
from dashboards.generator.panels import ERRORS, NEUTRAL, Panel, Query, lines, number
from dashboards.generator.promql import AT_THE_END, FIRING, LARGEST, largest, recorded
from dashboards.generator.recording import BURN_WINDOWS
from dashboards.generator.shared import FAILING_SERIES, alerts_firing
from dashboards.generator.tables import Column, rows

__all__ = ["slo"]

_BURNING: Final = ((None, "green"), (1, "#EAB839"), (6, "orange"), (14.4, ERRORS))
_BURNING_CELL: Final = ((None, "transparent"), *_BURNING[1:])
_BURNING_SERIES: Final = ((None, NEUTRAL), *_BURNING[1:])
_LEFT: Final = ((None, ERRORS), (0, "orange"), (0.25, "#EAB839"), (0.5, "green"))
_LEFT_CELL: Final = (*_LEFT[:-1], (0.5, "transparent"))
_LATE_SERIES: Final = ((None, NEUTRAL), (0.05, ERRORS))
_FAILURES: Final = "job_batch:flowrt_item_failures:ratio_rate"
_LATE: Final = "job_batch:flowrt_items_late:ratio_rate"

_DETAIL: Final = ("long", "short", "signal", "reason", "sign")
"""Labels that tell apart the instances of one alert on the same batch, node and process."""

_NAMES: Final = ("alertname", "severity", "job", "instance", "batch", "node", "detail")


def slo() -> model.Dashboard:
    """Build the dashboard."""
    return frame(
        "flowrt-slo",
        "flowrt / SLO",
        "The objectives, what is left of the error budget of 30 days, and how fast it burns.",
        [
            ("", _now()),
            ("How fast the budgets burn: at 1× they last exactly 30 days", _burn()),
            ("Over time", _time()),
        ],
        variables=("batch",),
        source="flowrt_batches_active",
    )


def _ratio(prefix: str, window: str) -> str:
    return recorded(f"{prefix}{window}", "batch")


def _largest(name: str) -> str:
    """Recorded series of the batches, by the highest value in the time shown."""
    series = recorded(name, "batch")
    return largest(series, "job, batch", f"max_over_time({series}{AT_THE_END})")


def _now() -> list[Panel]:
    left = f"1 - {_ratio(_FAILURES, '30d')} / scalar({FAILURE_RATIO})"
    return [
        number(
            "Error budget left (%, 30 days)",
            "Of the batch that has the least left. Below 0 % the objective is missed.",
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
            "Budget burn (×, last hour)",
            "Share of items that failed over the share that may fail, for the worst batch.",
            "suffix:×",
            Query(f"max({_ratio(_FAILURES, '1h')} / scalar({FAILURE_RATIO}))"),
            steps=_BURNING,
            decimals=1,
            width=4,
            nothing="no items",
            links=[runbook("FlowrtItemErrorBudgetBurn")],
        ),
        number(
            "Late items burn (×, last hour)",
            "Share of successful items that were late over the share that may be late, for the worst batch.",
            "suffix:×",
            Query(f"max({_ratio(_LATE, '1h')} / scalar({LATE_RATIO}))"),
            steps=_BURNING,
            decimals=1,
            width=4,
            nothing="no items",
            links=[runbook("FlowrtLatencySLO")],
        ),
        number(
            "May fail (objective)",
            "Share of items that may fail, as set in flowrt.objectives.yaml.",
            "percentunit",
            Query(f"max({FAILURE_RATIO})"),
            trend=False,
            width=4,
        ),
        number(
            "May be late (objective)",
            "Share of successful items that may be late, as set in flowrt.objectives.yaml with the threshold.",
            "percentunit",
            Query(f"max({LATE_RATIO})"),
            trend=False,
            width=4,
        ),
        alerts_firing("Alerts of flowrt that fire for the chosen jobs: as many as the table below has rows."),
    ]


def _burn() -> list[Panel]:
    return [
        rows(
            "Error budget burn, by batch (×, per window)",
            "Left: what remains of the budget of 30 days. An alert fires when both windows of a pair burn too fast: "
            + ", ".join(f"{burn.long} and {burn.short} above {burn.factor:g}×" for burn in BURNS)
            + ".",
            ("job", "batch"),
            [
                Column(window, f"{_ratio(_FAILURES, window)} / scalar({FAILURE_RATIO})", "suffix:×", _BURNING_CELL)
                for window in BURN_WINDOWS
            ]
            + [Column("Left", f"1 - {_ratio(_FAILURES, '30d')} / scalar({FAILURE_RATIO})", "percentunit", _LEFT_CELL)],
            height=7,
            links=[runbook("FlowrtItemErrorBudgetBurn")],
        ),
        rows(
            "Late items burn, by batch (×, per window)",
            "The same for successful items that took longer than the threshold.",
            ("job", "batch"),
            [
                Column(window, f"{_ratio(_LATE, window)} / scalar({LATE_RATIO})", "suffix:×", _BURNING_CELL)
                for window in BURN_WINDOWS
            ],
            height=7,
            links=[runbook("FlowrtLatencySLO")],
        ),
    ]


def _alerts() -> str:
    """One series per alert that fires, with all that tells it apart from the others in few columns."""
    labels = ", ".join(f'"{label}"' for label in _DETAIL)
    return f'max by ({", ".join(_NAMES)}) (label_join({FIRING}, "detail", " ", {labels}))'


def _time() -> list[Panel]:
    windows = sorted({window for burn in BURNS for window in (burn.long, burn.short)}, key=BURN_WINDOWS.index)
    return [
        lines(
            "Error budget burn, by window (×)",
            "The worst batch. An alert fires when both windows of a pair are above their dashed line.",
            "suffix:×",
            *(
                Query(f"max({_ratio(_FAILURES, window)} / scalar({FAILURE_RATIO}))", f"over {window}")
                for window in windows
            ),
            by_value=_BURNING_SERIES,
        ),
        lines(
            "Items failing, by batch (%, 5m)",
            f"Share of the items that failed or timed out, over five minutes. {LARGEST}",
            "percentunit",
            Query(_largest(f"{_FAILURES}5m"), "{{job}} / {{batch}}"),
            width=6,
            most=0.01,
            by_value=FAILING_SERIES,
        ),
        lines(
            "Items late, by batch (%, 5m)",
            f"Share of the successful items that took longer than the threshold, over five minutes. {LARGEST}",
            "percentunit",
            Query(_largest(f"{_LATE}5m"), "{{job}} / {{batch}}"),
            width=6,
            most=0.05,
            by_value=_LATE_SERIES,
        ),
        rows(
            "Alerts that fire, one per row (now)",
            "Start with the critical ones. Click an alert for its runbook.",
            _NAMES,
            [Column("Firing", _alerts(), "none")],
            width=16,
            height=8,
            sort="severity",  # critical, info, warning
            ascending=True,
            widths={"alertname": 240, "instance": 130, "detail": 160, "severity": 80, "Firing": 60},
            row_links={"alertname": [{"title": "Runbooks", "url": "/d/flowrt-runbooks/"}]},
        ),
        lines(
            "Items that count for the objectives (per second)",
            f"Items that ended as ok, failed or timed out. Without them no budget burns. {LARGEST}",
            "suffix: /s",
            Query(_largest("job_batch:flowrt_items_ended:rate5m"), "{{job}} / {{batch}}"),
            width=8,
        ),
    ]
