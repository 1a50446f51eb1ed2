"""Records of a batch and its items.

One `ItemRecord` per item carries its state and its times, written by the engine alone. Results, spans, metrics and
logs all read that record; there is no second clock.
"""

from __future__ import annotations

from flowrt.model.batch import BatchRecord, ItemRecord, Slot, UnexportedIds, make_record
from flowrt.model.hedge import HedgeOutcome, HedgeRecord
from flowrt.model.result import STATUSES, BatchResult, Rejected, Status

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
    "UnexportedIds",
    "make_record",
]
