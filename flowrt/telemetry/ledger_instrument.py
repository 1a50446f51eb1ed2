"""What a batch's account needs of the loop: its beats while the batch is under way, and the sums at its end."""

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


_RUNNING: Final[tuple[Cause, ...]] = ("slots", "service", "tail", "loop_blocked")  # while these hold, some item goes on


class LedgerInstrument(Instrument):
    """Lets the loop's heartbeat tell the ledgers of a processor's batches; it has no hook that is called per item.

    It must come after the other built-in instruments, as its end is then told before theirs.
    """

    def batch_started(self, batch: BatchRecord) -> None:
        """From now on, a loop that does not turn is charged and blamed."""
        heartbeat_of(asyncio.get_running_loop()).watch(batch)

    def batch_ended(self, batch: BatchRecord) -> None:
        """Find the speedup, unless a sample has told it."""
        heartbeat_of(asyncio.get_running_loop()).unwatch(batch)
        wall_ns, service_ns = batch.finished_ns - batch.started_ns, service_ns_of(batch)
        if batch.speedup is None and batch.ledger is not None and wall_ns > 0 and service_ns:
            bound_ns = batch.ledger.read(batch.finished_ns)
            running_ns = sum(bound_ns[cause] for cause in _RUNNING)
            delays = batch.ledger.delays
            batch.speedup = speedup_less_delays(service_ns / 1e9, wall_ns / 1e9, delays, running_ns / 1e9)
