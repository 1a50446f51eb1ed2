"""What-if forecasts: replay the attempts of a recording under other settings, by the same engine in virtual time."""

from __future__ import annotations

from flowrt.whatif.figures import Figures, Forecast
from flowrt.whatif.forecast import forecast, sweep
from flowrt.whatif.recorded_attempts import RecordedAttempts
from flowrt.whatif.scenario import Plan

__all__ = ["Figures", "Forecast", "Plan", "RecordedAttempts", "Tape", "forecast", "sweep"]

Tape = RecordedAttempts
"""Former name of `RecordedAttempts`."""
