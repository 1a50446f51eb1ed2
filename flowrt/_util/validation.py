"""Checks of a policy's settings: what is wrong is told with the value and the fix, before any work."""

from __future__ import annotations

import math
from typing import Any, TypeVar

__all__ = [
    "check_concurrency",
    "check_count",
    "check_duration",
    "check_number",
    "check_policy",
    "number_or_none",
    "seconds_to_ns",
]

P = TypeVar("P")


def number_or_none(value: Any) -> float | None:
    """The value where it is a finite number of at least 0, else None; True and False are no numbers here."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < math.inf else None


def check_number(
    name: str, value: Any, *, least: float = 0.0, most: float = math.inf, above: bool = False, unit: str = ""
) -> float:
    """A finite number within its range.

    Args:
        name: The setting's name, for the message.
        value: What the caller gave.
        least: The smallest value allowed.
        most: The largest value allowed.
        above: Whether `least` itself is too small.
        unit: What it counts, as in "of seconds".

    Raises:
        ValueError: It is anything else.
    """
    number = number_or_none(value)
    if number is None or number > most or number < least or (above and number == least):
        lower = f"above {least:g}" if above else f"of at least {least:g}"
        upper = "" if most == math.inf else f" and at most {most:g}"
        unit = f" {unit}" if unit else ""
        raise ValueError(f"{name} must be a number{unit} {lower}{upper}, not {value!r}")
    return number


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """An int of at least `least`.

    Raises:
        ValueError: It is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    return value


def seconds_to_ns(seconds: float) -> int:
    """Whole nanoseconds."""
    return round(seconds * 1e9)


def check_concurrency(value: Any) -> int:
    """A concurrency limit: an int of at least 1.

    Raises:
        ValueError: It is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"max_concurrency must be an integer of at least 1, not {value!r}")
    return value


def check_duration(name: str, value: Any) -> float | None:
    """A duration in seconds, or None for no limit.

    Raises:
        ValueError: It is not a positive, finite number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds, or None for no limit, not {value!r}")
    return float(value)


def check_policy(name: str, value: Any, kind: type[P]) -> P | None:
    """A policy of its kind, or None.

    Raises:
        TypeError: It is anything else.
    """
    if value is None or isinstance(value, kind):
        return value
    raise TypeError(f"{name} must be a {kind.__name__}(...) or None, not {value!r}")
