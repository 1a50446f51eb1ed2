"""Workers of executors on the screen of `flowrt top`."""

from __future__ import annotations

import time
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flowrt.errors import one_line

__all__ = ["workers_table"]

_MAX_ROWS: Final = 8


def workers_table(state: dict[str, Any]) -> list[RenderableType]:
    """Show the workers, the last to crash first; nothing where no executor has workers.

    Args:
        state: The server's state; older versions send no workers.
    """
    workers = state.get("workers", [])
    if not workers:
        return []
    title = Text(f"workers: {len(workers) + state.get('workers_left', 0):,}", style="bold")
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False, expand=True)
    for name in ("slot", "pid", "host"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in ("busy", "items", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("restarts and last crash", no_wrap=True, overflow="ellipsis", ratio=1)
    for worker in workers[:_MAX_ROWS]:
        table.add_row(
            one_line(worker["slot"]),
            f"{worker['pid']}" if worker["pid"] else "none",
            one_line(worker["host"]),
            _busy(worker),
            f"{worker['inflight']:,}",
            f"{worker['rss_bytes'] / 1e6:,.0f} MB",
            _restarts(worker),
        )
    return [Text(), table]


def _busy(worker: dict[str, Any]) -> str:
    if not worker["ready"]:
        return "not ready" if worker.get("in_use", True) else "ready at next batch"
    return "–" if worker["busy"] is None else f"{worker['busy']:.0%}"


def _restarts(worker: dict[str, Any]) -> Text:
    text = Text(", ".join(f"{count:,} {one_line(reason)}" for reason, count in worker["restarts"].items()) or "none")
    crash = worker["last_crash"]
    if crash is not None:
        at = time.strftime("%H:%M:%S", time.localtime(crash["at_s"]))
        text.append(f"; {one_line(crash['how'])} at {at}", style="red")
    return text
