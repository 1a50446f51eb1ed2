"""What another setting would have made of a recorded batch: its attempts, run again by the same engine in no time."""

from __future__ import annotations

from flowrt.whatif.forecast import Figures, Forecast, forecast, sweep
from flowrt.whatif.recorded_attempts import Tape
from flowrt.whatif.scenario import Plan

__all__ = ["Figures", "Forecast", "Plan", "Tape", "forecast", "sweep"]
