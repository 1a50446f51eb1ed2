"""Connects a batch's ledger to the loop's heartbeat, and estimates the speedup when the batch ends."""

from __future__ import annotations

import asyncio
from typing import Final

from flowrt.attribution.ledger import Cause
from flowrt.attribution.speedup import speedup_in_threads, speedup_less_delays
from flowrt.engine.instrument import Instrument, Phase
from flowrt.eventloop.heartbeat import Heartbeat, heartbeat_of
from flowrt.model import BatchRecord, ItemRecord
from flowrt.telemetry.metrics.instrument import service_ns_of

__all__ = ["ItemLedgerInstrument", "LedgerInstrument"]


_RUNNING: Final[tuple[Cause, ...]] = ("slots", "service", "tail", "loop_blocked")  # causes under which an item runs


class LedgerInstrument(Instrument):
    """Registers active batches with the loop's heartbeat. It has no per-item hook.

    It must be the last built-in instrument: `batch_ended` hooks run in reverse order, and the others read the speedup
    that this one sets.
    """

    phase = Phase.LEDGER

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
            wall_s, blocked_s = wall_ns / 1e9, bound_ns["loop_blocked"] / 1e9
            speedup = speedup_less_delays(service_ns / 1e9, wall_s, delays, running_ns / 1e9)
            if batch.cpu_time is not None:
                speedup = speedup_in_threads(speedup, batch.cpu_time, wall_s, blocked_s)
            batch.speedup = speedup


class ItemLedgerInstrument(LedgerInstrument):
    """Ledger instrument of one batch without metrics, with the hook that the metrics instrument has otherwise."""

    def __init__(self) -> None:
        self._heartbeat: Heartbeat

    def batch_started(self, batch: BatchRecord) -> None:
        """Find the loop's heartbeat, and start charging."""
        self._heartbeat = heartbeat_of(asyncio.get_running_loop())
        super().batch_started(batch)

    def item_finished(self, item: ItemRecord) -> None:
        """Note an item that ends in a long turn of the loop."""
        if item.finished_ns > self._heartbeat.slow_ns:
            self._heartbeat.add_ended(item)
