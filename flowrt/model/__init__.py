"""Records of a batch and its items.

Each item has one `ItemRecord` with its status and its times, which only the engine writes. Results, spans, metrics and
logs read that record, so they agree and use one clock.
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
