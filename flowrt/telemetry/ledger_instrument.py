"""Connects a batch's ledger to the loop's heartbeat, and records the service time at the batch's end."""

from __future__ import annotations

import asyncio

from flowrt.engine.instrument import Instrument, Phase
from flowrt.eventloop.heartbeat import Heartbeat, heartbeat_of
from flowrt.model import BatchRecord, ItemRecord
from flowrt.telemetry.metrics.instrument import service_ns_of

__all__ = ["ItemLedgerInstrument", "LedgerInstrument"]


class LedgerInstrument(Instrument):
    """Registers active batches with the loop's heartbeat. It has no per-item hook.

    Its phase is after those of the instruments that read the speedup: hooks for an end run in reverse order, and the
    speedup needs the service time that is set here.
    """

    phase = Phase.LEDGER

    def batch_started(self, batch: BatchRecord) -> None:
        """Start charging time in which the loop is blocked to the batch's ledger."""
        heartbeat_of(asyncio.get_running_loop()).watch(batch)

    def batch_ended(self, batch: BatchRecord) -> None:
        """Stop charging, and record the service time, for the speedup of a batch without a sample."""
        heartbeat_of(asyncio.get_running_loop()).unwatch(batch)
        batch.service_ns = service_ns_of(batch)


class ItemLedgerInstrument(LedgerInstrument):
    """Ledger instrument of one batch without metrics, with the item hook that the metrics instrument would have."""

    def __init__(self) -> None:
        self._heartbeat: Heartbeat

    def batch_started(self, batch: BatchRecord) -> None:
        """Find the loop's heartbeat, and start charging."""
        self._heartbeat = heartbeat_of(asyncio.get_running_loop())
        super().batch_started(batch)

    def item_finished(self, item: ItemRecord) -> None:
        """Report an item that ended in a long turn of the loop to the heartbeat."""
        if item.finished_ns > self._heartbeat.slow_ns:
            self._heartbeat.add_ended(item)
