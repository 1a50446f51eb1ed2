"""The built-in instruments: metrics, tracing and logs, each over the engine's own records."""

from __future__ import annotations

import sys
from typing import Final

from flowrt.engine.instrument import Instrument
from flowrt.telemetry.ledger_instrument import LedgerInstrument
from flowrt.telemetry.logs.events import ItemLogInstrument, LogInstrument, is_listened_to
from flowrt.telemetry.metrics.collector import register
from flowrt.telemetry.metrics.instrument import MetricsInstrument
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.options import Telemetry
from flowrt.telemetry.reconciliation import Reconciliation
from flowrt.telemetry.tracing.instrument import BatchTracing, make_tracing, tracing_is_set_up

__all__ = ["Observer"]


_LEDGER: Final = LedgerInstrument()


class Observer:
    """The built-in instruments of one processor.

    Its series exist, at 0, from here on.

    Args:
        choice: Which instruments are wanted.
        batch: The processor's name.
        node: The node's id.
        limit: The concurrency limit.
    """

    def __init__(self, choice: Telemetry, batch: str, node: str, limit: int) -> None:
        self._choice = choice
        self._pair: tuple[str, str] | None = None
        if choice.metrics:
            register()
            self._pair = METRICS.declare(batch, node, limit)

    def instruments(self) -> tuple[Instrument, ...]:
        """What is to watch a batch that starts now, given what the process has set up by now."""
        choice = self._choice
        tracing: BatchTracing | None = None
        if choice.tracing and tracing_is_set_up():
            tracing = make_tracing(choice.trace_shape, choice.tail_sampling)
        instruments: list[Instrument] = []
        if self._pair is not None:
            instruments += (Reconciliation(self._pair[0], tracing), MetricsInstrument(self._pair, choice.latency_slo))
            instruments += _on_a_live_page()
        if choice.logs and is_listened_to("warning"):
            instruments.append(ItemLogInstrument() if is_listened_to("debug") else LogInstrument())
        if tracing is not None:
            instruments.append(tracing)
        if choice.ledger:
            instruments.append(_LEDGER)
        return tuple(instruments)


def _on_a_live_page() -> tuple[Instrument, ...]:
    """What shows a batch on the live page, where one is served.

    The servers import what a page is made of. Where none has, there is no page, and nobody who only runs batches waits
    for those imports.
    """
    if "flowrt.telemetry.live" not in sys.modules:
        return ()
    from flowrt.telemetry.live import LIVE, LiveInstrument  # noqa: PLC0415

    return (LiveInstrument(LIVE),) if LIVE.served else ()
