"""Input and output of the linter: dashboards and findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Board", "Finding", "panels_of", "title_of"]

Board = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """Problem of a dashboard.

    Args:
        file: File of the dashboard.
        panel: Title of the panel, or another part of the dashboard.
        wrong: The problem.
        fix: How to fix it.
    """

    file: str
    panel: str
    wrong: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}: {self.panel}: {self.wrong}; {self.fix}"


def panels_of(board: Board) -> Iterator[dict[str, Any]]:
    """Yield all panels, those in collapsed rows too, without the rows themselves."""
    for panel in board.get("panels", []):
        if panel.get("type") == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def title_of(panel: dict[str, Any]) -> str:
    """Return the panel's name in findings."""
    return panel.get("title") or f"panel {panel.get('id')}"
