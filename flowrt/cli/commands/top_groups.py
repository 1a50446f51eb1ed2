"""Overview of the batches by name on the screen of `flowrt top`."""

from __future__ import annotations

import time
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flowrt.errors import one_line
from flowrt.reporting.summary import duration

__all__ = ["groups_table"]


def groups_table(state: dict[str, Any], max_rows: int, failing: float) -> list[RenderableType]:
    """Show a row per name, in the server's order: the most troubled first.

    Args:
        state: The server's state; older versions send no groups.
        max_rows: Number of names to show.
        failing: Share of failed items from which on a name is marked.

    Returns:
        Nothing if no two active batches have the same name: each of them has its own line then.
    """
    groups = [group for group in state.get("groups", []) if group["active"]]
    if max((group["active"] for group in groups), default=0) < 2:
        return []
    left = max(0, len(groups) - max_rows) + state.get("groups_left", 0)
    names = len(groups) + state.get("groups_left", 0)
    title = Text(f"{sum(group['active'] for group in groups):,} active", style="bold")
    title.append(f", {names:,} {'name' if names == 1 else 'names'}", style="not bold dim")
    if left:
        title.append(f", {left:,} not shown", style="not bold dim")
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False, expand=True)
    table.add_column("name", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("active", "ended", "items/s", "failing", "p95", "oldest"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in groups[:max_rows]:
        share = group.get("failing")
        table.add_row(
            one_line(group["name"]),
            f"{group['active']:,}",
            f"{sum(group.get('ended', {}).values()):,}",
            _shown(group.get("item_rate"), "{:,.1f}"),
            Text(_shown(share, "{:.0%}"), style="bold red" if share is not None and share >= failing else ""),
            "–" if group.get("p95_s") is None else duration(group["p95_s"]),
            "–" if group.get("oldest_s") is None else duration(max(0.0, time.time() - group["oldest_s"])),
        )
    return [table]


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
