"""Times and numbers as people read them."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Unit", "duration", "percent", "unit_of"]


class Unit(NamedTuple):
    """A unit for the time axis of a chart.

    Attributes:
        name: In the plural.
        short: Its symbol.
        seconds: How many it has.
    """

    name: str
    short: str
    seconds: float


_UNITS: Final = (Unit("hours", "h", 3600.0), Unit("minutes", "min", 60.0))
_SPACE: Final = "\u00a0"  # a number and its sign stay on one line
_SECONDS: Final = Unit("seconds", "s", 1.0)


def unit_of(wall_s: float) -> Unit:
    """The unit for a time axis of this length."""
    for unit in _UNITS:
        if wall_s >= 5 * unit.seconds:
            return unit
    return _SECONDS


def duration(seconds: float) -> str:
    """A duration with its unit: `340 µs`, `12.3 ms`, `4.56 s`, `12 min 5 s`, `3 h 20 min`.

    Args:
        seconds: How long.
    """
    if seconds >= 3600:
        minutes = round(seconds / 60)
        return f"{minutes // 60} h {minutes % 60} min"
    if seconds >= 60:
        whole = round(seconds)
        return f"{whole // 60} min {whole % 60} s"
    for size, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size * 0.9995:
            return f"{_three(seconds / size)} {name}"
    return "0 s" if seconds <= 0 else f"{seconds * 1e9:.0f} ns"


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def percent(share: float) -> str:
    """A share as a percentage that never rounds something to nothing, nor nearly all to all.

    Args:
        share: 0 to 1.
    """
    value = share * 100
    if 0 < value < 0.1:
        return f"under 0.1{_SPACE}%"
    if 99.9 < value < 100:
        return f"over 99.9{_SPACE}%"
    return f"{value:.1f}{_SPACE}%" if 0 < value < 10 or 90 < value < 100 else f"{value:.0f}{_SPACE}%"
