"""Overview of the batches by name on the screen of `flowrt top`."""

from __future__ import annotations

import time
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flowrt.errors import one_line
from flowrt.reporting.summary import duration

__all__ = ["groups_table"]

_OTHER: Final = "(other names)"  # the server's row of all names beyond its limit
_MAX_LINES: Final = 4  # active batches that the screen shows without the table: one in full, three on a line


def groups_table(state: dict[str, Any], max_rows: int, failing: float) -> list[RenderableType]:
    """Show a row per name, in the server's order: the most troubled first.

    Args:
        state: The server's state; older versions send no groups.
        max_rows: Number of names to show.
        failing: Share of failed items from which on a name is marked.

    Returns:
        Nothing if each active batch has a line of its own, and another name.
    """
    groups = [group for group in state.get("groups", []) if group["active"]]
    # older versions send no totals
    active = state.get("active", sum(group["active"] for group in groups))
    names = state.get("active_names", len(groups) + state.get("groups_left", 0))
    if active <= max(1, min(names, _MAX_LINES)):
        return []
    shown = groups[:max_rows]
    left = names - sum(group["name"] != _OTHER for group in shown)
    title = Text(f"{active:,} active", style="bold")
    title.append(f", {names:,} {'name' if names == 1 else 'names'}", style="not bold dim")
    if left:
        title.append(f", {left:,} not shown", style="not bold dim")
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False, expand=True)
    table.add_column("name", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("active", "ended", "items/s", "failing", "p95", "oldest"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in shown:
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
