"""Colours and labels of statuses and of the ledger's causes, for light and for dark backgrounds.

Reports and Grafana dashboards read them here; the live page repeats them in `flowrt/server/static/page.css`, and a test
compares the two.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["BOUND", "STATUS", "Bound"]

STATUS: Final = {
    "ok": "#3b82f6",
    "failed": "#ef4444",
    "timed_out": "#f97316",
    "cancelled": "#94a3b8",
    "resumed": "#22c55e",
}


class Bound(NamedTuple):
    """Label and colour of one of the ledger's causes.

    Attributes:
        label: Text in a legend.
        color: Colour as `#rrggbb`.
    """

    label: str
    color: str


BOUND: Final = {
    "slots": Bound("all slots busy", "#3b82f6"),
    "rate_limit": Bound("rate limit", "#a78bfa"),
    "backoff": Bound("backoff", "#f59e0b"),
    "loop_blocked": Bound("loop blocked", "#ef4444"),
    "input": Bound("input", "#14b8a6"),
    "paused": Bound("paused", "#94a3b8"),
    "consumer": Bound("consumer", "#ec4899"),
    "tail": Bound("straggler tail", "#f97316"),
    "service": Bound("service", "#64748b"),
}
