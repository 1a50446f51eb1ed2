"""Number of hypothesis examples: all on the main Python, a quarter on the second."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["examples"]

_SHARE: Final = 4 if os.environ.get("FLOWRT_EXAMPLES") == "fewer" else 1


def examples(most: int) -> int:
    """Return the number of examples for this run.

    Args:
        most: The number on the main Python.
    """
    return max(5, most // _SHARE)
