"""Runtime: telemetry, signals and the loop for a process that has set up none of its own."""

from __future__ import annotations

from flowrt.runtime.runtime import Runtime, run

__all__ = ["Runtime", "run"]
