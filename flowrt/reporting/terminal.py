"""Report as text: with colours on a terminal if rich is installed, plain elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TextIO

from flowrt.errors import one_line
from flowrt.reporting.answers import what_failed, why_slow
from flowrt.reporting.figures import Detail
from flowrt.reporting.palette import BOUND
from flowrt.reporting.units import duration, percent

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["plain", "print_report", "sections_of", "sparkline", "text_of"]

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_BAR: Final = 40
_WIDTH: Final = 60

Rows = list[tuple[str, ...]]
Section = tuple[str, Rows]


def sections_of(detail: Detail) -> list[Section]:
    """Return the report as sections: a title and rows of one-line texts.

    Args:
        detail: Figures of the batch.
    """
    failed, causes = what_failed(detail)
    slow, advice = why_slow(detail)
    sections: list[Section] = [
        ("What failed", [(failed,), *((f"- {line}",) for line in causes)]),
        ("Why it took as long as it did", [(slow,), *((f"- {line}",) for line in advice)]),
        ("Figures", _figures(detail)),
    ]
    rows: Rows
    whole = sum(detail.bound.values())
    if whole:
        spent = sorted(((s, cause) for cause, s in detail.bound.items() if s > 0), reverse=True)
        rows = [(BOUND[c].label, percent(s / whole), duration(s), _bar(s / whole)) for s, c in spent if c in BOUND]
        sections.append(("Where the time went", rows))
    if detail.timeline is not None:
        line = detail.timeline
        total = [sum(rates) for rates in zip(*line.ended.values(), strict=True)] or [0.0]
        rows = [
            ("items / s", sparkline(total), f"up to {max(total):,.0f}"),
            ("slots", sparkline(line.running), f"up to {max(line.running):,.0f}"),
        ]
        sections.append(("Over time", rows))
    if detail.causes:
        sections.append(("Causes", _causes(detail)))
    if detail.stalls:
        sections.append(("What blocked the loop", _stalls(detail)))
    if detail.slowest:
        sections.append(("Slowest items", _without_empty_columns(_slowest(detail))))
    return [(title, [tuple(one_line(cell) for cell in row) for row in rows]) for title, rows in sections]


def _causes(detail: Detail) -> Rows:
    rows: Rows = [("items", "attempts", "cause")]
    for cause in detail.causes[:10]:
        where = f" ({cause['where']})" if cause.get("where") else ""
        rows.append((f"{cause['items']:,}", f"{cause['attempts']:,}", f"{cause['type']}: {cause['text']}{where}"))
    return rows


def _stalls(detail: Detail) -> Rows:
    rows: Rows = [("duration", "caused by", "items delayed")]
    for stall in detail.stalls[:10]:
        culprit = str(stall.get("culprit", stall.get("node", "")))
        rows.append((duration(float(stall.get("duration_s", 0.0))), culprit, f"{stall.get('victims', 0):,}"))
    return rows


def _slowest(detail: Detail) -> Rows:
    rows: Rows = [("item", "total", "last attempt", "attempts", "ended", "trace")]
    for item in detail.slowest[:5]:
        total = "-" if item["duration"] is None else duration(item["duration"])
        times = (total, duration(item["service"]), str(item["attempts"]))
        rows.append((f"{item['index']:,}", *times, item["status"], item["trace_id"] or "-"))
    return rows


def _without_empty_columns(rows: Rows) -> Rows:
    """Return the rows without columns in which no row has a value."""
    kept = [column for column in range(len(rows[0])) if any(row[column] != "-" for row in rows[1:])]
    return [tuple(row[column] for column in kept) for row in rows]


def _bar(share: float) -> str:
    return "█" * max(1, round(_BAR * share))


def _figures(detail: Detail) -> Rows:
    rows: Rows = [("items", f"{detail.total:,}")]
    rows += [(name.replace("_", " "), f"{count:,}") for name, count in detail.counts.items() if count]
    if detail.wall_s:
        rows.append(("wall time", duration(detail.wall_s)))
        rows.append(("throughput", f"{detail.throughput:,.1f} items/s"))
    if detail.service:
        s = detail.service
        rows.append(
            (
                "service time",
                ", ".join(f"{name} {duration(s[name])}" for name in ("p50", "p95", "p99", "max")),
            )
        )
    retried = detail.retries.get("items", 0)
    if retried:
        rows.append(("retried", f"{retried:,} items, {detail.retries['recovered']:,} recovered"))
    rows += [
        (f"{name} speedup", f"{value:,.1f}x")
        for name, value in detail.speedup.items()
        if isinstance(value, (int, float)) and name in ("measured", "claimed")
    ]
    return rows


def sparkline(values: list[float]) -> str:
    """Return values as a row of block characters. Neighbours are averaged to fit the width.

    Args:
        values: Non-negative values.
    """
    step = max(1, -(-len(values) // _WIDTH))
    means = [sum(values[i : i + step]) / len(values[i : i + step]) for i in range(0, len(values), step)]
    top = max(means, default=0.0)
    if not top:
        return _BLOCKS[0] * len(means)
    return "".join(_BLOCKS[0 if value <= 0 else max(1, round(8 * value / top))] for value in means)


def text_of(detail: Detail) -> str:
    """Return the report as plain text.

    Args:
        detail: Figures of the batch.
    """
    return plain(_title(detail), sections_of(detail))


def print_report(detail: Detail, out: TextIO) -> None:
    """Print the report.

    Args:
        detail: Figures of the batch.
        out: Text stream. Colours are used on terminals only.
    """
    console = _console(out)
    if console is None:
        out.write(text_of(detail))
    else:
        _print_rich(console, _title(detail), detail)


def _title(detail: Detail) -> str:
    return f"{one_line(detail.name)} ({detail.status})" if detail.status else one_line(detail.name)


def plain(title: str, sections: list[Section]) -> str:
    """Return sections as aligned text.

    Args:
        title: First line.
        sections: Titles and rows.
    """
    lines = [title]
    for heading, rows in sections:
        lines += ["", heading]
        columns = max(len(row) for row in rows)
        widths = [max(len(row[c]) for row in rows if len(row) == columns) for c in range(columns)]
        for row in rows:
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            lines.append(("  " + "  ".join(padded if len(row) > 1 else list(row))).rstrip())
    return "\n".join(lines) + "\n"


def _console(out: TextIO) -> Console | None:
    if not out.isatty():
        return None
    try:
        from rich.console import Console  # noqa: PLC0415  # an extra
    except ImportError:
        return None
    return Console(file=out, highlight=False)


def _print_rich(console: Console, title: str, detail: Detail) -> None:
    from rich.panel import Panel  # noqa: PLC0415  # an extra
    from rich.table import Table  # noqa: PLC0415  # an extra
    from rich.text import Text  # noqa: PLC0415  # an extra

    console.print(Text(title, style="bold"))
    for number, (heading, rows) in enumerate(sections_of(detail)):
        if number < 2:
            body = Text("\n").join([Text(rows[0][0]), *(Text(row[0], style="dim") for row in rows[1:])])
            style = "green" if number == 0 and not detail.failed else "red" if number == 0 else "blue"
            console.print(Panel(body, title=heading, title_align="left", border_style=style))
            continue
        table = Table(title=heading, title_justify="left", show_header=False, title_style="bold", box=None)
        for column in range(max(len(row) for row in rows)):
            table.add_column(style="bold" if column == 0 else None, no_wrap=column == 0)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # Text: rich would read brackets in an error as markup
        console.print(table)
