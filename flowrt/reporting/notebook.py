"""Report as an HTML fragment without scripts, for notebooks."""

from __future__ import annotations

from html import escape

from flowrt.reporting.figures import Detail
from flowrt.reporting.palette import BOUND
from flowrt.reporting.terminal import sections_of
from flowrt.reporting.units import duration, percent

__all__ = ["fragment_of"]


def fragment_of(detail: Detail) -> str:
    """Return an HTML fragment with all texts escaped.

    Args:
        detail: Figures of the batch.
    """
    parts = [f"<b>{_text(detail.name)}</b> {_text(detail.status)}"]
    whole = sum(detail.bound.values())
    if whole:
        bars = "".join(
            f'<i style="flex-grow:{s / whole:.6f};background:{BOUND[c].color}" '
            f'title="{BOUND[c].label}: {percent(s / whole)}, {duration(s)}"></i>'
            for c, s in detail.bound.items()
            if s > 0 and c in BOUND
        )
        parts.append(f'<div style="display:flex;height:14px;max-width:640px;margin:6px 0">{bars}</div>')
    for number, (heading, rows) in enumerate(sections_of(detail)):
        open_now = " open" if number < 3 else ""
        cells = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{_text(cell)}</td>' for cell in row) + "</tr>"
            for row in rows
        )
        parts.append(f"<details{open_now}><summary>{_text(heading)}</summary><table>{cells}</table></details>")
    return f"<div>{''.join(parts)}</div>"


def _text(value: str) -> str:
    return escape(value.encode("utf-8", "replace").decode("utf-8"))
