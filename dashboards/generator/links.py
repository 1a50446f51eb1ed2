"""Where links lead: between dashboards, from panels to runbooks, from alerts to both."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

__all__ = ["ALERTS", "GRAFANA", "link_to", "row_link", "runbook", "runbook_path", "to"]

GRAFANA: Final = "http://localhost:3000"
"""Where links of alerts lead; `flowrt dashboards export --grafana-url` puts another in."""

ALERTS: Final = (
    "FlowrtItemErrorBudgetBurn",
    "FlowrtLatencySLO",
    "FlowrtBatchStalled",
    "FlowrtBatchMissing",
    "FlowrtSaturated",
    "FlowrtEventLoopBlocked",
    "FlowrtTelemetryDropped",
    "FlowrtItemsUnaccounted",
    "FlowrtTargetDown",
)
"""Their names, in the order of the runbooks."""

_CHOSEN: Final = "${datasource:queryparam}&${job:queryparam}&${instance:queryparam}&${__url_time_range}"


def runbook_path(alert: str) -> str:
    """Where an alert's runbook is in Grafana: a panel of a dashboard that comes with the others.

    Args:
        alert: Its name.
    """
    return f"/d/flowrt-runbooks/?viewPanel={ALERTS.index(alert) + 1}"


def to(uid: str, **chosen: str) -> str:
    """Where another dashboard is, with the same data source, job, instance and time.

    Args:
        uid: The dashboard's.
        chosen: Further variables and what to choose, which may be one of Grafana's own variables.
    """
    return "&".join([f"/d/{uid}/?{_CHOSEN}", *(f"var-{name}={value}" for name, value in chosen.items())])


def link_to(title: str, url: str) -> dashboard.DashboardLink:
    """A link from a panel or a series.

    Args:
        title: What it says.
        url: Where it leads, within Grafana.
    """
    return dashboard.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url).target_blank(False)


def runbook(alert: str) -> dashboard.DashboardLink:
    """A panel's link to the runbook of the alert that watches it.

    Args:
        alert: Its name.
    """
    return link_to(f"Runbook: {alert}", runbook_path(alert))


def row_link(title: str, uid: str, *labels: str) -> dict[str, str]:
    """A link from a table's cell, which carries the row's labels over.

    Args:
        title: What it says.
        uid: The dashboard's.
        labels: The row's columns that are variables there.
    """
    return {"title": title, "url": to(uid, **{label: f"${{__data.fields.{label}}}" for label in labels})}
