"""Time windows of the rules, and their compression for tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["REAL", "Time", "seconds"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def seconds(window: str) -> int:
    """Return a window's length in seconds.

    Args:
        window: A number and a unit, as in `5m`.

    Raises:
        ValueError: The unit is neither s, m, h nor d.
    """
    found = re.fullmatch(r"(\d+)([smhd])", window)
    if found is None:
        raise ValueError(f"a window is a number and s, m, h or d, as in '5m', not {window!r}")
    return int(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class Time:
    """Speed of time for the rules, so that a test of hours takes seconds.

    Args:
        factor: Speed as a multiple of real time. The names of recorded series keep their windows of real time.
    """

    factor: int = 1

    def window(self, window: str) -> str:
        """Return the compressed window in PromQL's form.

        Args:
            window: The window in real time.
        """
        return window if self.factor == 1 else f"{round(self.length_s(window) * 1000)}ms"

    def length_s(self, window: str) -> float:
        """Return the compressed window's length in seconds.

        Args:
            window: The window in real time.
        """
        return seconds(window) / self.factor

    def pace(self, window: str) -> str:
        """Return a compressed evaluation interval or waiting time, at least 200 ms.

        Args:
            window: The interval in real time.
        """
        return window if self.factor == 1 else f"{max(200, round(self.length_s(window) * 1000))}ms"


REAL: Final = Time()
