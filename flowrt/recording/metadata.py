"""What a recording says of the whole batch: its name, settings, totals, causes of failures, and versions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from flowrt._version import __version__
from flowrt.attribution.explanation import explain_batch, why_overstated
from flowrt.attribution.ledger import CAUSES, Ledger
from flowrt.model import BatchRecord

__all__ = ["FORMAT", "VERSION", "describe"]

FORMAT: Final = "flowrt.recording"
VERSION: Final = 1


def describe(
    batch: BatchRecord,
    *,
    settings: dict[str, Any],
    causes: list[dict[str, Any]],
    slowest: list[dict[str, Any]],
    limits: Sequence[tuple[int, int]],
    cpu_ns: int = 0,
) -> dict[str, Any]:
    """The metadata of a batch that is over, as JSON holds it.

    Args:
        batch: The batch's record.
        settings: The processor's settings.
        causes: What made attempts fail.
        slowest: The items that took longest.
        limits: The concurrency limit from the given nanosecond on.
        cpu_ns: What the loop's thread computed meanwhile; 0 where that is not known.
    """
    speedup = batch.speedup
    started_s = (batch.started_ns + batch.epoch_offset_ns) / 1e9
    return {
        "format": FORMAT,
        "version": VERSION,
        "batch": batch.name,
        "batch_id": batch.batch_id,
        "node": batch.node_id,
        "node_type": batch.node_type,
        "status": batch.status,
        "started_at": datetime.fromtimestamp(started_s, UTC).isoformat(timespec="milliseconds"),
        "wall_ns": batch.finished_ns - batch.started_ns,
        "cpu_ns": cpu_ns,
        "expected": batch.expected,
        "counts": dict(batch.counts),
        "limits": [list(change) for change in limits],
        "ledger": None if batch.ledger is None else _ledger(batch.ledger, batch.finished_ns),
        "stalls": [] if batch.ledger is None else [stall.as_dict() for stall in batch.ledger.delays.stalls],
        "speedup": None if speedup is None else speedup.as_dict(),
        "explanation": explain_batch(batch),
        "overstated": "" if speedup is None or not speedup.diverges else why_overstated(batch, speedup),
        "settings": settings,
        "causes": causes,
        "slowest": slowest,
        "versions": {"flowrt": __version__, "python": platform.python_version()},
    }


def _ledger(ledger: Ledger, finished_ns: int) -> dict[str, Any]:
    """What held the batch back, in nanoseconds by cause, in all and over time."""
    return {
        "causes": list(CAUSES),
        "bound_ns": list(ledger.read(finished_ns).values()),
        "timeline": [[begin, end, list(bound.values())] for begin, end, bound in ledger.timeline()],
    }
