"""What a run came to, on stderr: a table on a terminal, aligned text everywhere else."""

from __future__ import annotations

import sys

import click

from flowrt.errors import one_line
from flowrt.report import BatchReport

__all__ = ["print_summary", "summary_rows"]


def summary_rows(report: BatchReport) -> list[tuple[str, str]]:
    """The figures of a run, as pairs of a label and a text.

    Args:
        report: Fed with every result; its `wall_time` is set.
    """
    rows = [("items", f"{report.total:,}"), ("ok", f"{report.succeeded:,}"), ("failed", f"{report.failed:,}")]
    rows += [(f"  {one_line(kind)}", f"{count:,}") for kind, count in report.errors.most_common(10)]
    rest = sum(report.errors.values()) - sum(count for _, count in report.errors.most_common(10))
    if rest:
        rows.append(("  other", f"{rest:,}"))
    times = report.service_times
    if times.count:
        rows += [(name, _duration(times.at(q))) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))]
    rows.append(("wall time", _duration(report.wall_time)))
    rows.append(("throughput", f"{report.throughput:,.1f} items/s"))
    if times.count:
        rows.append(("speedup", f"{report.claimed_speedup:,.1f}x claimed (sum of execution times / wall time)"))
    return rows


def print_summary(report: BatchReport) -> None:
    """Show the figures on stderr.

    Args:
        report: Fed with every result; its `wall_time` is set.
    """
    rows = summary_rows(report)
    if _is_terminal() and _print_table(report.name, rows):
        return
    width = max(len(label) for label, _ in rows)
    click.echo("\n".join(f"{label:<{width}}  {text}" for label, text in rows), err=True)


def _print_table(title: str, rows: list[tuple[str, str]]) -> bool:
    try:
        from rich.console import Console  # noqa: PLC0415  # an extra
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        return False
    table = Table(title=Text(one_line(title)), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for label, text in rows:
        table.add_row(Text(label), Text(text))  # Text, so that brackets in an error's name are no markup
    Console(stderr=True).print(table)
    return True


def _duration(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1e3:,.2f} ms"


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
