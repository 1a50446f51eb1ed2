"""Colours and words for statuses and causes, the same in every form of a report; they read on light and on dark."""

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
    """How a cause of the ledger is shown.

    Attributes:
        label: In a legend.
        color: As `#rrggbb`.
    """

    label: str
    color: str


BOUND: Final = {
    "slots": Bound("all slots busy", "#3b82f6"),
    "rate_limit": Bound("rate limit", "#a78bfa"),
    "backoff": Bound("backoff", "#f59e0b"),
    "loop_blocked": Bound("loop blocked", "#ef4444"),
    "input": Bound("input", "#14b8a6"),
    "consumer": Bound("consumer", "#ec4899"),
    "tail": Bound("straggler tail", "#f97316"),
    "service": Bound("service", "#64748b"),
}
