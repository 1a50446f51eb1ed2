"""Links between dashboards, from panels to runbooks, and from alerts to both."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

__all__ = ["ALERTS", "GRAFANA", "link_to", "row_link", "runbook", "runbook_path", "to"]

GRAFANA: Final = "http://localhost:3000"
"""Grafana's address in the links of alerts; `flowrt dashboards export --grafana-url` replaces it."""

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
    "FlowrtWorkersCrashing",
)
"""Names of the alerts, in the order of the runbooks."""

_CHOSEN: Final = "${datasource:queryparam}&${job:queryparam}&${instance:queryparam}&${__url_time_range}"


def runbook_path(alert: str) -> str:
    """Return the path of an alert's runbook, which is a panel of the dashboard of runbooks.

    Args:
        alert: Name of the alert.
    """
    return f"/d/flowrt-runbooks/?viewPanel={ALERTS.index(alert) + 1}"


def to(uid: str, **chosen: str) -> str:
    """Return the path of a dashboard, with the present data source, job, instance and time.

    Args:
        uid: Identity of the dashboard.
        chosen: Values of further variables, which may be variables of Grafana themselves.
    """
    return "&".join([f"/d/{uid}/?{_CHOSEN}", *(f"var-{name}={value}" for name, value in chosen.items())])


def link_to(title: str, url: str) -> dashboard.DashboardLink:
    """Return a link for a panel or a series.

    Args:
        title: Text of the link.
        url: Target of the link, within Grafana.
    """
    return dashboard.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url).target_blank(False)


def runbook(alert: str) -> dashboard.DashboardLink:
    """Return a panel's link to the runbook of the alert that watches the same metric.

    Args:
        alert: Name of the alert.
    """
    return link_to(f"Runbook: {alert}", runbook_path(alert))


def row_link(title: str, uid: str, *labels: str) -> dict[str, str]:
    """Return a link for a table's cells that passes the row's labels on.

    Args:
        title: Text of the link.
        uid: Identity of the dashboard.
        labels: Columns of the row that are variables of the dashboard.
    """
    return {"title": title, "url": to(uid, **{label: f"${{__data.fields.{label}}}" for label in labels})}
