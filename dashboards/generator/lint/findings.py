"""What the linter reads and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Board", "Finding", "panels_of", "title_of"]

Board = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        file: The dashboard's file.
        panel: The panel's title, or what else of the dashboard it is about.
        wrong: What is wrong.
        fix: How to mend it.
    """

    file: str
    panel: str
    wrong: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}: {self.panel}: {self.wrong}; {self.fix}"


def panels_of(board: Board) -> Iterator[dict[str, Any]]:
    """All panels, those in folded rows too, without the rows themselves."""
    for panel in board.get("panels", []):
        if panel.get("type") == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def title_of(panel: dict[str, Any]) -> str:
    """How a finding names the panel."""
    return panel.get("title") or f"panel {panel.get('id')}"
