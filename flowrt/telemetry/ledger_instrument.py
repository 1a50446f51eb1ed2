"""Connects a batch's ledger to the loop's heartbeat, and estimates the speedup when the batch ends."""

from __future__ import annotations

import asyncio
from typing import Final

from flowrt.attribution.ledger import Cause
from flowrt.attribution.speedup import speedup_less_delays
from flowrt.engine.instrument import Instrument
from flowrt.eventloop.heartbeat import heartbeat_of
from flowrt.model import BatchRecord
from flowrt.telemetry.metrics.instrument import service_ns_of

__all__ = ["LedgerInstrument"]


_RUNNING: Final[tuple[Cause, ...]] = ("slots", "service", "tail", "loop_blocked")  # causes under which an item runs


class LedgerInstrument(Instrument):
    """Registers active batches with the loop's heartbeat. It has no per-item hook.

    It must be the last built-in instrument: `batch_ended` hooks run in reverse order, and the others read the speedup
    that this one sets.
    """

    def batch_started(self, batch: BatchRecord) -> None:
        """Start charging time in which the loop is blocked to the batch's ledger."""
        heartbeat_of(asyncio.get_running_loop()).watch(batch)

    def batch_ended(self, batch: BatchRecord) -> None:
        """Stop charging, and estimate the speedup unless a sample measured it."""
        heartbeat_of(asyncio.get_running_loop()).unwatch(batch)
        wall_ns, service_ns = batch.finished_ns - batch.started_ns, service_ns_of(batch)
        if batch.speedup is None and batch.ledger is not None and wall_ns > 0 and service_ns:
            bound_ns = batch.ledger.read(batch.finished_ns)
            running_ns = sum(bound_ns[cause] for cause in _RUNNING)
            delays = batch.ledger.delays
            batch.speedup = speedup_less_delays(service_ns / 1e9, wall_ns / 1e9, delays, running_ns / 1e9)
