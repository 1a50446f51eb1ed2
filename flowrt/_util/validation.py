"""Checks of settings at construction. Their messages name the setting, the value and what is allowed."""

from __future__ import annotations

import math
import sys
from typing import Any, Final, TypeVar

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

_LONGEST_S: Final = 1e15  # 30 million years: a longer duration overflows timers, and never ends either
_SHOWN_CHARS: Final = 100


def number_or_none(value: Any) -> float | None:
    """Return a finite number of at least 0 unchanged, and None for anything else, True and False included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value <= sys.float_info.max else None  # an int can be larger than any float


def check_number(
    name: str, value: Any, *, least: float = 0.0, most: float = math.inf, above: bool = False, unit: str = ""
) -> float:
    """Check a finite number within a range.

    Args:
        name: The setting's name, for the message.
        value: The value given.
        least: The smallest value allowed.
        most: The largest value allowed.
        above: True if `least` itself is too small.
        unit: The unit, for the message: "of seconds".

    Raises:
        ValueError: It is anything else.
    """
    number = number_or_none(value)
    if number is None or number > most or number < least or (above and number == least):
        lower = f"above {least:g}" if above else f"of at least {least:g}"
        upper = "" if most == math.inf else f" and at most {most:g}"
        unit = f" {unit}" if unit else ""
        raise ValueError(f"{name} must be a number{unit} {lower}{upper}, not {_shown(value)}")
    return number


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """Check an int of at least `least`.

    Raises:
        ValueError: It is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    return value


def seconds_to_ns(seconds: float) -> int:
    """Round to whole nanoseconds; durations are cut to 30 million years."""
    return round(min(seconds, _LONGEST_S) * 1e9)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print ints of more than 4,300 digits
        return f"an integer of about {round(value.bit_length() * math.log10(2)):,} digits"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def check_concurrency(value: Any) -> int:
    """Check a concurrency limit: an int of at least 1.

    Raises:
        ValueError: It is anything else.
    """
    return check_count("max_concurrency", value)


def check_duration(name: str, value: Any) -> float | None:
    """Check a duration in seconds, or None for no limit.

    Raises:
        ValueError: It is not a positive, finite number.
    """
    if value is None:
        return None
    number = number_or_none(value)
    if not number:
        raise ValueError(f"{name} must be a positive number of seconds, or None for no limit, not {_shown(value)}")
    return float(number)


def check_policy(name: str, value: Any, kind: type[P]) -> P | None:
    """Check a policy object of the given class, or None.

    Raises:
        TypeError: It is anything else.
    """
    if value is None or isinstance(value, kind):
        return value
    raise TypeError(f"{name} must be a {kind.__name__}(...) or None, not {value!r}")
