"""Record of a hedge: a further attempt of an item, beside its own."""

from __future__ import annotations

from typing import Any, Literal

from flowrt.model.result import BatchResult

__all__ = ["HedgeOutcome", "HedgeRecord"]

HedgeOutcome = Literal["won", "lost", "failed"]
"""How a hedge ended: it won; it lost to the item's own attempt, or both were cancelled; or it failed."""


class HedgeRecord:
    """Record of a hedge: a further attempt beside an item's own.

    Args:
        number: Its number among the item's attempts.
        started_ns: When it started, by the batch's clock.
        finished_ns: When it ended, or was abandoned.
        outcome: `won`, `lost` or `failed`.
        result: A record with its error, if it failed.
    """

    __slots__ = ("finished_ns", "number", "outcome", "result", "started_ns")

    def __init__(
        self, number: int, started_ns: int, finished_ns: int, outcome: HedgeOutcome, result: BatchResult[Any, Any]
    ) -> None:
        self.number = number
        self.started_ns = started_ns
        self.finished_ns = finished_ns
        self.outcome = outcome
        self.result = result

    def __repr__(self) -> str:
        return f"<HedgeRecord: attempt {self.number} {self.outcome}>"
