"""How much of each test runs: everything on the main Python, less on a second one."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["SECOND_PYTHON", "examples"]

SECOND_PYTHON: Final = "FLOWRT_SECOND_PYTHON" in os.environ
_SHARE: Final = 4 if SECOND_PYTHON else 1


def examples(most: int) -> int:
    """Return the number of hypothesis examples for this run, a quarter on a second Python.

    Args:
        most: The number on the main Python.
    """
    return max(5, most // _SHARE)
