"""Built-in instruments: metrics, tracing, logs, the live page and the ledger, all fed by the engine's records."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Final

from flowrt.engine.instrument import Instrument
from flowrt.telemetry.ledger_instrument import ItemLedgerInstrument, LedgerInstrument
from flowrt.telemetry.logs.events import ItemLogInstrument, LogInstrument, WarningLogInstrument, is_listened_to
from flowrt.telemetry.metrics.collector import register
from flowrt.telemetry.metrics.instrument import MetricsInstrument
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.options import Telemetry
from flowrt.telemetry.reconciliation import Reconciliation
from flowrt.telemetry.redaction import Redact, safe_redact
from flowrt.telemetry.tracing.instrument import BatchTracing, make_tracing
from flowrt.telemetry.worker_events import connect_workers

__all__ = ["Observer"]

connect_workers()


_LEDGER: Final = LedgerInstrument()


class Observer:
    """Built-in instruments of one processor. Creating it declares the processor's metric series at 0.

    Args:
        choice: Which instruments the processor wants.
        batch: The processor's name.
        node: The node's id.
        limit: The concurrency limit.
        part: True if the batches run within items of another batch: their start and end are logged at DEBUG only.

    Attributes:
        redact: Removes secrets from texts; it does not raise.
        keeps_ledger: True if the wall time is attributed.
        watches: True if any instrument observes the batches.
    """

    def __init__(self, choice: Telemetry, batch: str, node: str, limit: int, *, part: bool = False) -> None:
        self._choice = choice
        self._part = part
        self.keeps_ledger = choice.ledger
        self.watches = choice.metrics or choice.tracing or choice.logs or choice.ledger
        self.redact = safe_redact(choice.redact)
        self._pair: tuple[str, str] | None = None
        if choice.metrics:
            register()
            self._pair = METRICS.declare(batch, node, limit)

    def instruments(self) -> tuple[Instrument, ...]:
        """Instruments for a batch that starts now.

        Called once per batch, since tracing, logging and the live page may be set up after the processor was made.
        """
        choice = self._choice
        tracing: BatchTracing | None = None
        if choice.tracing:
            tracing = make_tracing(choice.trace_shape, choice.tail_sampling, self.redact)
        instruments: list[Instrument] = []
        if self._pair is not None:
            audit = _untraced(self._pair[0]) if tracing is None else Reconciliation(self._pair[0], tracing)
            instruments += (audit, MetricsInstrument(self._pair, choice.latency_slo))
            instruments += _live_instruments(self.redact)
        if choice.logs and is_listened_to("warning"):
            debug = (self._part or choice.item_events) and is_listened_to("debug")
            if self._part and not debug:
                instruments.append(WarningLogInstrument(self.redact))
            else:
                every_item = choice.item_events and debug
                instruments.append((ItemLogInstrument if every_item else LogInstrument)(self.redact, part=self._part))
        if tracing is not None:
            instruments.append(tracing)
        if choice.ledger:
            instruments.append(_LEDGER if choice.metrics else ItemLedgerInstrument())
        return tuple(instruments)


@lru_cache(maxsize=64)
def _untraced(name: str) -> Reconciliation:
    """Return the audit of the untraced batches of a name, which they share as it holds no state of a batch."""
    return Reconciliation(name, None)


def _live_instruments(redact: Redact) -> tuple[Instrument, ...]:
    """Instrument that feeds the live page; empty if no server serves one.

    The servers import the live page's modules. Looking for them in `sys.modules` keeps that import time away from
    processes that only run batches.
    """
    store = sys.modules.get("flowrt.telemetry.live.store")
    live = getattr(store, "LIVE", None)  # its last name, missing while another thread imports it
    return (store.LiveInstrument(live, redact),) if store is not None and live is not None and live.served else ()
