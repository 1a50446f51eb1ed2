"""The built-in instruments: metrics, tracing and logs, each over the engine's own records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowrt.instrument import Instrument

if TYPE_CHECKING:
    from flowrt.policy import Telemetry

__all__ = ["instruments_for"]


def instruments_for(choice: Telemetry, batch: str, node: str) -> tuple[Instrument, ...]:
    """The built-in instruments that a processor wants.

    Args:
        choice: Which.
        batch: The processor's name.
        node: The node's id.
    """
    return ()
