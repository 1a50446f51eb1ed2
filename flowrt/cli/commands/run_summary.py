"""Summary of `flowrt run`: the verdict, the figures, and at most two lines of advice."""

from __future__ import annotations

from typing import Final

from flowrt.errors import one_line
from flowrt.reporting.report import BatchReport
from flowrt.reporting.summary import summary_rows

__all__ = ["run_rows"]

_ADVICE: Final = "bound by"
_MAX_ADVICE_LINES: Final = 2
_MAX_CAUSES: Final = 3


def run_rows(
    report: BatchReport, extra: list[tuple[str, str]], *, complete: bool, met: list[str] | None = None
) -> list[tuple[str, str]]:
    """Return the rows of the summary.

    Args:
        report: Report of the run.
        extra: Further figures.
        complete: True if every item of the input has its line in the output.
        met: The conditions of `--fail-if` that hold; None without any conditions.
    """
    rows = summary_rows(report)
    figures = [row for row in rows if row[0] != _ADVICE]
    advice = [part.strip() for label, text in rows if label == _ADVICE for part in text.split(";")]
    labels = [_ADVICE] + [""] * len(advice)
    return [
        ("result", _verdict(report, met, complete=complete)),
        *figures,
        *extra,
        *zip(labels, advice[:_MAX_ADVICE_LINES], strict=False),
    ]


def _verdict(report: BatchReport, met: list[str] | None, *, complete: bool) -> str:
    """Say whether the run succeeded, and what failed by cause."""
    end = "" if complete else "; not complete"
    if met:
        return f"failed: {', '.join(met)}{end}"
    if not report.failed:
        return f"ok{end}"
    causes = ", ".join(f"{one_line(kind)} {count:,}" for kind, count in report.errors.most_common(_MAX_CAUSES))
    more = "" if len(report.errors) <= _MAX_CAUSES else ", ..."
    what = f"{report.failed:,} of {report.total:,} items"
    if met is None or not complete:
        return f"failed: {what} ({causes}{more}){end}"
    return f"ok by --fail-if: {what} failed ({causes}{more}){end}"
