"""Parser for rates written as text: `100/s`, `600/min`, `90k/min`."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

__all__ = ["parse_rate"]

_UNITS: Final = {
    "ms": 0.001,
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
}
_TIMES: Final = {"": 1, "k": 1_000, "M": 1_000_000}
_RATE: Final = re.compile(r"(?P<amount>\d[\d_]*(?:\.\d+)?)(?P<times>[kM]?)/(?P<count>\d+)?(?P<unit>[a-z]+)", re.ASCII)


def parse_rate(text: str) -> tuple[float, float]:
    """Parse a rate into an amount and a period in seconds.

    Args:
        text: Amount, slash, and a unit (ms, s, min, h, d), optionally with a count before the unit.

    Raises:
        ValueError: The text does not have that form.
    """
    found = _RATE.fullmatch("".join(text.split())) if isinstance(text, str) else None
    unit = found["unit"] if found else ""
    scale = _UNITS.get(unit) or _UNITS.get(unit.removesuffix("s"))
    if found is None or scale is None:
        raise ValueError(f"a rate is written like 100/s, 600/min, 2.5/s, 90k/min or 5/10s, not {text!r}")
    amount = Fraction(found["amount"].replace("_", "")) * _TIMES[found["times"]]
    per = scale * int(found["count"] or 1)
    # 2.5 per second would admit 2 in each second; 5 per two seconds is the same rate without the loss
    whole = amount.limit_denominator(1_000)
    if whole and whole == amount:
        return whole.numerator, per * whole.denominator
    return float(amount), per
