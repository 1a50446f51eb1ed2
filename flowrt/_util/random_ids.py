"""Random ids as text, drawn many at a time."""

from __future__ import annotations

import os
import random
from typing import Final

__all__ = ["random_id"]

_random: Final = random.Random()  # noqa: S311  # ids are no secrets; `random.seed` does not reset this generator
_unused: Final[list[str]] = []
_DIGITS: Final = 32
_MANY: Final = 256


def random_id() -> str:
    """Return a new id of 32 hexadecimal digits."""
    try:
        return _unused.pop()
    except IndexError:
        drawn = _random.randbytes(_MANY * _DIGITS // 2).hex()
        _unused.extend([drawn[at : at + _DIGITS] for at in range(_DIGITS, len(drawn), _DIGITS)])
        return drawn[:_DIGITS]


def _draw_anew() -> None:
    _random.seed()
    _unused.clear()  # the parent process will use these ids


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_draw_anew)
