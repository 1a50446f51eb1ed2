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
        clause: In a sentence that begins "… of the time".
    """

    label: str
    color: str
    clause: str


BOUND: Final = {
    "slots": Bound("all slots busy", "#3b82f6", "all slots were busy"),
    "rate_limit": Bound("rate limit", "#a78bfa", "items waited for the rate limit"),
    "backoff": Bound("backoff", "#f59e0b", "only the waits between retries were left"),
    "loop_blocked": Bound("loop blocked", "#ef4444", "something blocked the event loop"),
    "input": Bound("input", "#14b8a6", "the batch waited for its input"),
    "consumer": Bound("consumer", "#ec4899", "the batch waited for whoever took its results"),
    "tail": Bound("straggler tail", "#f97316", "slots stood empty while the last items ran"),
    "service": Bound("service", "#64748b", "every item left was running"),
}
