"""Runtime: sets up telemetry, signal handling and the event loop of a process."""

from __future__ import annotations

from flowrt.runtime.runtime import Runtime, run

__all__ = ["Runtime", "run"]
