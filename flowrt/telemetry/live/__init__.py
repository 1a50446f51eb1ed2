"""What the live page shows, gathered beside the batches at no cost to their items."""

from __future__ import annotations

from flowrt.telemetry.live.store import LIVE, LiveInstrument, LiveStore

__all__ = ["LIVE", "LiveInstrument", "LiveStore"]
