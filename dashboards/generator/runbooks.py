"""Runbooks: the pages of docs/runbooks as a dashboard, so that an alert's link works wherever the others do."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.frame import frame
from dashboards.generator.links import ALERTS
from dashboards.generator.tables import notes

__all__ = ["PAGES", "runbooks"]

PAGES: Final = Path(__file__).parents[2] / "docs" / "runbooks"


def runbooks() -> model.Dashboard:
    """The dashboard: a panel per alert, in the order in which links count them."""
    panels = [
        notes(alert, f"What {alert} means, and what to do.", _without_title((PAGES / f"{alert}.md").read_text()))
        for alert in ALERTS
    ]
    return frame(
        "flowrt-runbooks",
        "flowrt / Runbooks",
        "What each alert means, and what to do.",
        [("", panels)],
        annotated=False,
    )


def _without_title(page: str) -> str:
    return page.partition("\n")[2].strip()
