"""What is known about a batch and each of its items.

One `ItemRecord` per item carries its state and its times, written by the engine alone. Results, spans, metrics
and logs all read that record; nobody keeps a second clock.
"""

from __future__ import annotations

from flowrt.records.batch import BatchRecord, Slot
from flowrt.records.item import HedgeOutcome, HedgeRecord, ItemRecord
from flowrt.records.result import STATUSES, BatchResult, Rejected, Status

__all__ = [
    "STATUSES",
    "BatchRecord",
    "BatchResult",
    "HedgeOutcome",
    "HedgeRecord",
    "ItemRecord",
    "Rejected",
    "Slot",
    "Status",
]
