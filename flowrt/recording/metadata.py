"""Metadata of a recording: the batch's name, settings, totals, error groups, attribution and versions."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from flowrt._version import __version__
from flowrt.attribution.explanation import explain_batch, why_overstated
from flowrt.attribution.ledger import CAUSES, Ledger
from flowrt.attribution.stalls import Stall
from flowrt.model import BatchRecord
from flowrt.recording.command import command_line
from flowrt.telemetry.redaction import redact_of

__all__ = ["FORMAT", "VERSION", "describe", "describe_stalls"]

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
    """Build the metadata of a finished batch, in types that JSON can represent.

    Args:
        batch: The batch's record.
        settings: The processor's settings.
        causes: The error groups.
        slowest: The items that took longest.
        limits: Pairs of a time from the batch's start, in nanoseconds, and the concurrency limit from then on.
        cpu_ns: CPU time of the loop's thread during the batch, in nanoseconds; 0 if unknown.
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
        "stalls": [] if batch.ledger is None else describe_stalls(batch.ledger.delays.stalls, batch),
        "speedup": None if speedup is None else speedup.as_dict(),
        "explanation": explain_batch(batch),
        "overstated": "" if speedup is None or not speedup.diverges else why_overstated(batch, speedup),
        "settings": settings,
        "causes": causes,
        "slowest": slowest,
        "command": command_line(),
        "versions": {"flowrt": __version__, "python": platform.python_version()},
    }


def describe_stalls(stalls: Iterable[Stall], batch: BatchRecord) -> list[dict[str, Any]]:
    """Return the stalls of a batch in types that JSON can represent, with redacted stacks.

    Args:
        stalls: The stalls.
        batch: The batch's record.
    """
    redact = redact_of(batch)
    return [{**stall.as_dict(), "stack": redact(stall.stack)} for stall in stalls]


def _ledger(ledger: Ledger, finished_ns: int) -> dict[str, Any]:
    """The ledger's totals by cause, in nanoseconds, and their timeline."""
    return {
        "causes": list(CAUSES),
        "bound_ns": list(ledger.read(finished_ns).values()),
        "timeline": [[begin, end, list(bound.values())] for begin, end, bound in ledger.timeline()],
    }
