"""Screen of `flowrt top`: one batch in full, others on a line each, and a table of many batches by name."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flowrt._util.trace_url import trace_link
from flowrt.cli.commands.top_client import Answer
from flowrt.cli.commands.top_groups import groups_table
from flowrt.cli.commands.top_workers import workers_table
from flowrt.errors import one_line
from flowrt.reporting.summary import duration

__all__ = ["View"]

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_CAUSES: Final = {  # name and colour, in the order of the page's legend
    "slots": ("slots busy", "cyan"),
    "rate_limit": ("rate limit", "yellow"),
    "backoff": ("backoff", "magenta"),
    "input": ("input", "bright_black"),
    "paused": ("paused", "bright_white"),
    "consumer": ("consumer", "blue"),
    "loop_blocked": ("loop blocked", "red"),
    "tail": ("tail", "white"),
    "service": ("service", "green"),
}
_STATUS: Final = {"running": "cyan", "ok": "green", "failed": "red", "cancelled": "yellow"}

_FAILING: Final = 0.05  # from this share of failed items on, an active batch is shown first
_MAX_CAUSES: Final = 3

Batch = dict[str, Any]


class View:
    """State of the screen between two refreshes.

    Args:
        url: URL of the server for display.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._state: dict[str, Any] | None = None
        self._problem: str | None = None
        self._answered_s = 0.0
        self._chosen: str | None = None
        self._trace_url: str | None = None

    def update(self, answer: Answer) -> None:
        """Show an answer, or its problem beside the last known state."""
        self._problem = answer.problem
        if answer.state is None:
            return
        last, self._state = self._state, answer.state
        try:
            self.render(80, None)  # reads every field
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            self._state = last
            self._problem = "the server's answer is not understood: its flowrt may have another version"
            return
        self._trace_url = answer.trace_url
        self._answered_s = time.monotonic()

    def press(self, key: str) -> None:
        """Handle a key: n and p choose the next and previous batch, a the latest."""
        ids = [batch["id"] for batch in self._batches()]
        shown = self._shown()
        if key == "a":
            self._chosen = None
        elif key in ("n", "p") and shown is not None:
            place = ids.index(shown["id"]) + (1 if key == "n" else -1)
            self._chosen = ids[place % len(ids)]

    def render(self, width: int, height: int | None) -> RenderableType:
        """Render the screen.

        Args:
            width: Width in characters.
            height: Height in lines; None is unbounded.
        """
        parts: list[RenderableType] = [self._title()]
        shown = self._shown()
        if shown is None:
            parts.append(Text("\nno batch yet" if self._state is not None else "\nwaiting for the first answer"))
            return Group(*parts)
        groups: list[RenderableType] = []
        if self._state is not None:
            groups = groups_table(self._state, 8 if height is None else max(2, min(8, (height - 18) // 3)), _FAILING)
        parts += groups
        others = [batch for batch in self._batches() if batch is not shown]
        parts += [self._line(batch) for batch in others[:3]]
        parts += [Text(), *_batch(shown, width, self._trace_url)]
        workers = [] if self._state is None else workers_table(self._state)
        parts += workers
        taken = 10 + sum(part.row_count + 1 for part in (*groups, *workers) if isinstance(part, Table))
        free = None if height is None else max(3, height - len(parts) - taken)
        parts += _tables(shown, width, free)
        return Group(*parts)

    def _batches(self) -> list[Batch]:
        batches: list[Batch] = [] if self._state is None else self._state["batches"]
        return sorted(batches, key=_order, reverse=True)

    def _shown(self) -> Batch | None:
        batches = self._batches()
        return next((batch for batch in batches if batch["id"] == self._chosen), batches[0] if batches else None)

    def _title(self) -> Text:
        title = Text("flowrt top ", style="bold", no_wrap=True, overflow="ellipsis")
        title.append(_plain(self._url), style="not bold")
        if self._state is not None:
            process = self._state["process"]
            # what is urgent first: a narrow screen cuts the line off
            if stalls := process.get("stalls"):  # since the start: those of small batches are seen nowhere else
                title.append(f"  {stalls:,} loop {'stall' if stalls == 1 else 'stalls'}", style="not bold yellow")
            if process["lag_s"] is not None:
                lag_s = process["lag_s"]  # a bucket's upper bound, as on the page
                shown = f"{lag_s:g} s" if lag_s >= 1 else f"{lag_s * 1e3:g} ms"
                title.append(f"  lag ≤ {shown}", style="not bold dim")
            if process["cpu"] is not None:
                title.append(f"  cpu {process['cpu']:.0%}", style="not bold dim")
            if process["rss_bytes"] is not None:
                title.append(f"  {process['rss_bytes'] / 1e6:,.0f} MB", style="not bold dim")
            title.append(f"  pid {process['pid']}", style="not bold dim")
        if self._problem is not None:
            age = f", as of {duration(time.monotonic() - self._answered_s)} ago" if self._state is not None else ""
            title.append(f"\n{_plain(self._problem)}; retrying{age}", style="bold red")
        return title

    def _line(self, batch: Batch) -> Text:
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{batch['status']:>9} ", style=_STATUS.get(batch["status"], ""))
        line.append(f"{_plain(batch['name'])}: {_progress(batch)}, {duration(batch['elapsed_s'])}", style="dim")
        if failed := _failed(batch):
            line.append(f", {_failures(failed, batch)}", style="red")
        return line


def _order(batch: Batch) -> tuple[bool, bool, float]:
    """Return the sort key that puts active batches last, and of these the failing ones."""
    running = batch["status"] == "running"
    return running, running and _failed(batch) >= _FAILING * max(1, batch["completed"]), batch["started_s"]


def _failed(batch: Batch) -> int:
    failed: int = batch["counts"]["failed"] + batch["counts"]["timed_out"]
    return failed


def _failures(failed: int, batch: Batch) -> str:
    return f"{failed:,} failed ({failed / max(1, batch['completed']):.0%})"


def _batch(batch: Batch, width: int, trace_url: str | None) -> list[RenderableType]:
    over = batch["status"] != "running"
    head = Text(_plain(batch["name"]), style="bold", no_wrap=True, overflow="ellipsis")
    head.append(f"  {batch['status']}", style=_STATUS.get(batch["status"], ""))
    if batch.get("paused_s") is not None and not over:
        head.append(f", paused for {duration(batch['paused_s'])}", style="yellow")
    head.append(f"  {duration(batch['elapsed_s'])}", style="not bold dim")
    if failed := _failed(batch):
        head.append(f"  {_failures(failed, batch)}", style="bold red")
    progress = Text(no_wrap=True, overflow="ellipsis")
    expected = batch["expected"]
    if expected:
        share = min(1.0, batch["completed"] / expected)
        cells = max(10, min(60, width - 50))
        full = round(share * cells)
        progress.append("━" * full, style="green").append("━" * (cells - full), style="bright_black").append("  ")
    progress.append(_progress(batch))
    if batch["eta_s"] is not None and not over:
        progress.append(f", about {duration(batch['eta_s'])} left", style="dim")
    latency = [f"{name} {duration(value)}" for name, value in batch["latency"].items() if value is not None]
    figures = Text(f"{batch['rate']:,.0f}/s".ljust(12), no_wrap=True, overflow="ellipsis")
    figures.append("  ".join(latency))
    slots = Text(no_wrap=True, overflow="ellipsis")
    slots.append(f"{batch['inflight']:,} of {batch['limit']:,} in flight, {batch['queued']:,} queued")
    return [
        head,
        progress,
        *_causes(batch, trace_url),
        figures,
        slots,
        _rates(batch, width),
        *_bound(batch, width),
        *_explained(batch),
    ]


def _explained(batch: Batch) -> list[RenderableType]:
    """Say what limited the batch, and what would help, in the words of the page and the report."""
    text = batch.get("explained")
    return [Text(_plain(text), style="dim", overflow="fold")] if text else []


def _causes(batch: Batch, trace_url: str | None) -> list[RenderableType]:
    """List the main causes of failures, and the trace of an example."""
    lines: list[RenderableType] = []
    for cause in batch.get("causes", [])[:_MAX_CAUSES]:
        line = Text(f"{cause['count']:,} × ", style="red", no_wrap=True, overflow="ellipsis")
        line.append(f"{_plain(cause['type'])}: {_plain(cause['text'])}")
        lines.append(line)
        link = trace_link(trace_url, cause["trace_id"])
        if link is not None:
            lines.append(Text(f"    {_plain(link)}", style="dim", overflow="fold"))
    return lines


def _progress(batch: Batch) -> str:
    if not batch["expected"]:
        return f"{batch['completed']:,} items"
    share = 100 * batch["completed"] // max(batch["expected"], batch["completed"])  # only a complete batch shows 100 %
    return f"{batch['completed']:,} of {batch['expected']:,} items, {share}%"


def _rates(batch: Batch, width: int) -> Text:
    """Draw the rate over the life of the batch, as wide as the screen."""
    rows = batch.get("history") or []
    cells = max(10, min(100, width - 20))
    line = Text("rate     ", style="dim", no_wrap=True)
    if len(rows) < 3:
        return line.append("not enough samples yet" if batch["status"] == "running" else "ended too soon for a chart")
    begin, end = rows[0][0], rows[-1][0]
    edges: list[tuple[float, int]] = []
    for cell in range(cells + 1):
        at = begin + (end - begin) * cell / cells
        after = next(i for i, row in enumerate(rows) if row[0] >= at or i == len(rows) - 1)
        before = max(0, after - 1)
        span = rows[after][0] - rows[before][0]
        part = (at - rows[before][0]) / span if span > 0 else 1.0
        edges.append((at, rows[before][1] + part * (rows[after][1] - rows[before][1])))
    rates = [(b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else 0.0 for a, b in pairwise(edges)]
    most = max(rates) or 1.0
    line.append("".join(_BLOCKS[round(8 * max(0.0, rate) / most)] for rate in rates), style="cyan")
    line.append(f"  most {most:,.0f}/s", style="dim")
    return line


def _bound(batch: Batch, width: int) -> list[RenderableType]:
    """Draw what limited the batch, as a bar with a legend beside it, or below it where there is no room."""
    held = {cause: batch["bound_s"].get(cause, 0.0) for cause in _CAUSES}
    total = sum(held.values())
    line = Text("bound by ", style="dim", no_wrap=True)
    if not total:
        return [line.append("nothing yet")]
    cells, names = max(10, min(60, width - 27)), []
    for cause, seconds in sorted(held.items(), key=lambda pair: -pair[1]):
        name, colour = _CAUSES[cause]
        line.append("█" * round(cells * seconds / total), style=colour)
        if seconds / total >= 0.01:
            names.append(Text("  ").append(f"{seconds / total:.0%} ", style="dim").append(name, style=colour))
    if len(line) + sum(map(len, names)) <= width:
        return [line.append_text(Text().join(names))]
    lines = [line]
    for each in names:
        if lines[-1] is line or len(lines[-1]) + len(each) > width:
            lines.append(Text(" " * 7, no_wrap=True, overflow="ellipsis"))
        lines[-1].append_text(each)
    return [*lines]


def _tables(batch: Batch, width: int, max_lines: int | None) -> list[RenderableType]:
    failures, running = list(reversed(batch["failures"])), batch["running"]
    if max_lines is not None:
        failures = failures[: max(1, max_lines // 3)]
        running = running[: max(1, max_lines - len(failures) - 4)]
    tables: list[RenderableType] = []
    stalls = batch.get("stall_groups", [])[:2]
    if stalls:
        tables.append(Text())
    for stall in stalls:
        times = f"{stall['count']:,} × up to " if stall["count"] > 1 else ""
        what = f"the event loop was blocked for {times}{duration(stall['longest_s'])}: {_culprit(stall)}"
        tables.append(Text(what, style="red"))
    if failures:
        kinds = ", ".join(f"{_plain(kind)} {count:,}" for kind, count in list(batch["errors"].items())[:5])
        table = _table(f"failures: {kinds}", ("item", "right"), ("took", "right"), ("error", "left"))
        for item in failures:
            error = f"{_plain(item['error_type'])}: {_plain(item['error'])}"
            table.add_row(f"{item['index']:,}", duration(item["duration_s"]), Text(error))
        tables += [Text(), table]
    if running:
        table = _table("in flight, oldest first", ("item", "right"), ("age", "right"), ("waits at", "left"))
        for item in running:
            table.add_row(f"{item['index']:,}", duration(item["age_s"]), Text(_where(item, width)))
        tables += [Text(), table]
    return tables


def _culprit(stall: dict[str, Any]) -> str:
    if stall["garbage_collection"]:
        return "Python's garbage collector"
    where = _plain(stall["stack"].splitlines()[-1]) if stall["stack"] else ""
    node = f"node {_plain(stall['node'])}" if stall["node"] is not None else ""
    return ", ".join(part for part in (node, where) if part) or "cause unknown"


def _table(title: str, *columns: tuple[str, Any]) -> Table:
    table = Table(
        title=Text(title, style="bold"), title_justify="left", box=None, header_style="dim", pad_edge=False, expand=True
    )
    for name, justify in columns:
        wide = justify == "left"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", ratio=1 if wide else None)
    return table


def _where(item: dict[str, Any], width: int) -> str:
    places = item["places"]
    if not places:
        return _plain(item["state"])
    if width < 80:
        places = places[-1:]
    return " → ".join(f"{_plain(p['function'])} {_plain(PurePath(p['file']).name)}:{p['line']}" for p in places)


def _plain(text: str) -> str:
    """Strip line breaks and control characters: text from a server must not control the terminal."""
    return one_line(text)
