"""Summary of a run on stderr: a table on a terminal, aligned text elsewhere."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Final

import click

from flowrt.attribution.explanation import why_overstated
from flowrt.errors import one_line
from flowrt.reporting.report import BatchReport

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["duration", "make_table", "print_rows", "speedup_rows", "summary_rows"]


_COLUMNS: Final = 80


def summary_rows(report: BatchReport) -> list[tuple[str, str]]:
    """Return the figures of a run as pairs of a label and a text.

    Args:
        report: Report with every result added and `wall_time` set.
    """
    rows = [("items", f"{report.total:,}"), ("ok", f"{report.succeeded:,}"), ("failed", f"{report.failed:,}")]
    if resumed := report.counts["resumed"]:
        rows.insert(2, ("  resumed", f"{resumed:,}"))
    if report.cached:
        rows.insert(2, ("  cached", f"{report.cached:,}"))
    rows += [(f"  {one_line(kind)}", f"{count:,}") for kind, count in report.errors.most_common(10)]
    rest = sum(report.errors.values()) - sum(count for _, count in report.errors.most_common(10))
    if rest:
        rows.append(("  other", f"{rest:,}"))
    times = report.service_times
    if times.count:
        rows += [(name, duration(times.at(q))) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))]
    rows.append(("wall time", duration(report.wall_time)))
    throughput = f"{report.throughput:,.1f} items/s"
    if resumed and report.wall_time:  # they cost hardly any time, so the figure is no rate of the service
        throughput += f", {(report.total - resumed) / report.wall_time:,.1f} without the resumed items"
    rows.append(("throughput", throughput))
    if times.count:
        rows += speedup_rows(report) if report.total > 1 else []
    if report.explanation:
        rows.append(("bound by", report.explanation))
    return rows


def speedup_rows(report: BatchReport) -> list[tuple[str, str]]:
    """Return the measured and the claimed speedup, and the reason if they diverge.

    Args:
        report: Report with `wall_time` set, and `batch` if there is one.
    """
    speedup = report.speedup
    how = "sum of execution times / wall time"
    if speedup is None:
        return [("speedup", f"{report.claimed_speedup:,.1f}x claimed ({how})")]
    interval = f"{speedup.low:,.1f}x to {speedup.high:,.1f}x"
    found = speedup.estimate
    if speedup.measured is None:
        rows = [("speedup, measured", f"not known, {interval}: the threads may have waited for each other")]
    elif speedup.method == "cpu":
        rows = [("speedup, measured", f"{speedup.measured:,.1f}x ({interval}: by the CPU time of the threads)")]
    elif found is None:
        measured = f"{speedup.measured:,.1f}x ({interval}: {how}, less the time that items delayed each other)"
        rows = [("speedup, measured", measured)]
    else:
        alone = f"{duration(found.sample_s)} +/- {duration(found.sample_margin_s)}"
        per_item = f"{found.items:,} x {duration(found.item_s)} +/- {duration(found.margin_s)}"
        added = "the mean time in the batch less what the batch added to the sample"
        rows = [
            ("speedup, measured", f"{speedup.measured:,.1f}x (95 %: {interval})"),
            ("  sample", f"{found.size} of the items one by one, mean {alone}"),
            ("  estimate", f"{duration(found.total_s)} = {per_item}, {added}"),
        ]
    rows.append(("speedup, claimed", f"{speedup.claimed:,.1f}x ({how})"))
    if speedup.diverges and report.batch is not None:
        rows.append(("  overstated", why_overstated(report.batch, speedup)))
    return rows


def print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    """Print pairs of a label and a text on stderr. A closed or broken stderr is ignored.

    Args:
        title: Title of the table on a terminal.
        rows: The pairs.
    """
    try:
        if not _is_terminal() or not _print_table(title, rows):
            click.echo("\n".join(_plain_lines(rows)), err=True)
    except (OSError, ValueError):
        return


def _plain_lines(rows: list[tuple[str, str]]) -> list[str]:
    """Return the pairs as aligned lines of at most 80 columns; a word that is longer stays whole."""
    width = max(len(label) for label, _ in rows)
    lines = []
    for label, text in rows:
        first, *more = textwrap.wrap(text, _COLUMNS - width - 2, break_long_words=False, break_on_hyphens=False) or [""]
        lines.append(f"{label:<{width}}  {first}".rstrip())
        lines += [f"{'':<{width}}  {line}" for line in more]
    return lines


def make_table(title: str, rows: list[tuple[str, str]]) -> Table:
    """Return the pairs as a rich table. Needs the extra `cli`.

    Args:
        title: Title of the table.
        rows: The pairs.
    """
    from rich.table import Table  # noqa: PLC0415  # an extra
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=Text(one_line(title)), show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, text in rows:
        table.add_row(Text(label), Text(text))  # Text: rich would read brackets in an error's name as markup
    return table


def _print_table(title: str, rows: list[tuple[str, str]]) -> bool:
    try:
        from rich.console import Console  # noqa: PLC0415  # an extra
    except ImportError:
        return False
    Console(stderr=True).print(make_table(title, rows))
    return True


def duration(seconds: float) -> str:
    """Format a duration with two decimals, in seconds or milliseconds.

    Args:
        seconds: The duration in seconds.
    """
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1e3:,.2f} ms"


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
