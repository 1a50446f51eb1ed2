"""Record of a hedge: a further attempt of an item, beside the item's own attempt."""

from __future__ import annotations

from typing import Any, Literal

from flowrt.model.result import BatchResult

__all__ = ["HedgeOutcome", "HedgeRecord"]

HedgeOutcome = Literal["won", "lost", "failed"]
"""Outcome of a hedge: `won`; `lost`, to another attempt or by a cancellation of the item; or `failed`."""


class HedgeRecord:
    """Record of a hedge that has ended.

    Args:
        number: The hedge's number among the item's attempts.
        started_ns: When the hedge started, by the batch's clock.
        finished_ns: When the hedge ended or was abandoned.
        outcome: `won`, `lost` or `failed`.
        result: A record with the error of a failed hedge.
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
