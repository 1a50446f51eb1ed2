"""Formatting of durations and shares for people."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Unit", "duration", "percent", "unit_of"]


class Unit(NamedTuple):
    """Unit of a chart's time axis.

    Attributes:
        name: Name in the plural.
        short: Symbol.
        seconds: Length in seconds.
    """

    name: str
    short: str
    seconds: float


_UNITS: Final = (Unit("hours", "h", 3600.0), Unit("minutes", "min", 60.0))
_SPACE: Final = "\u00a0"  # no line break between the number and the sign
_SECONDS: Final = Unit("seconds", "s", 1.0)


def unit_of(wall_s: float) -> Unit:
    """Return the unit for a time axis of `wall_s` seconds."""
    for unit in _UNITS:
        if wall_s >= 5 * unit.seconds:
            return unit
    return _SECONDS


def duration(seconds: float) -> str:
    """Format a duration: `340 µs`, `12.3 ms`, `4.56 s`, `12 min 5 s`, `3 h 20 min`.

    Args:
        seconds: The duration in seconds.
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
    """Format a share as a percentage that rounds neither to 0 % nor to 100 % unless exact.

    Args:
        share: The share, 0 to 1.
    """
    value = share * 100
    if 0 < value < 0.1:
        return f"under 0.1{_SPACE}%"
    if 99.9 < value < 100:
        return f"over 99.9{_SPACE}%"
    return f"{value:.1f}{_SPACE}%" if 0 < value < 10 or 90 < value < 100 else f"{value:.0f}{_SPACE}%"
