"""Runbooks dashboard: the pages of docs/runbooks, so that an alert's link works without access to the repository."""

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
    """Build the dashboard: one panel per alert, in the order that `runbook_path` counts in."""
    panels = [
        notes(alert, f"What {alert} means, and what to do.", _without_title((PAGES / f"{alert}.md").read_text()))
        for alert in ALERTS
    ]
    return frame(
        "flowrt-runbooks",
        "flowrt / Runbooks",
        "What each alert means, and what to do.",
        [("", panels)],
        queried=False,
    )


def _without_title(page: str) -> str:
    return page.partition("\n")[2].strip()
