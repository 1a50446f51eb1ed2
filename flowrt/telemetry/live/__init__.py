"""Data of the live page, sampled from the batches' records by a separate thread at no cost per item."""

from __future__ import annotations

from flowrt.telemetry.live.store import LIVE, LiveInstrument, LiveStore

__all__ = ["LIVE", "LiveInstrument", "LiveStore"]
