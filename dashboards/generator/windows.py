"""Windows of time as rules write them, and the same rules in compressed time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["REAL", "Time", "seconds"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def seconds(window: str) -> int:
    """How long a window is, in seconds.

    Args:
        window: A number and a unit, as in `5m`.

    Raises:
        ValueError: It is neither seconds, minutes, hours nor days.
    """
    found = re.fullmatch(r"(\d+)([smhd])", window)
    if found is None:
        raise ValueError(f"a window is a number and s, m, h or d, as in '5m', not {window!r}")
    return int(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class Time:
    """How fast time goes for the rules.

    Args:
        factor: How many times faster than real time. What lasts hours can then be tried in seconds; the names of
            recorded series keep the windows that they have in real time.
    """

    factor: int = 1

    def window(self, window: str) -> str:
        """The window as PromQL writes it.

        Args:
            window: As in real time.
        """
        return window if self.factor == 1 else f"{round(self.length_s(window) * 1000)}ms"

    def length_s(self, window: str) -> float:
        """How long the window is, in seconds.

        Args:
            window: As in real time.
        """
        return seconds(window) / self.factor

    def pace(self, window: str) -> str:
        """How often to evaluate, or how long to wait: as `window`, though never under a fifth of a second.

        Args:
            window: As in real time.
        """
        return window if self.factor == 1 else f"{max(200, round(self.length_s(window) * 1000))}ms"


REAL: Final = Time()
