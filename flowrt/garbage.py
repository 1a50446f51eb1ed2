"""The garbage collector, told what a process that runs batches knows: what is loaded stays, and items come and go."""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["calm", "restore"]

_YOUNG: Final = 5_000  # new objects before it looks: with 700 it looks at a thousand items in flight again and again
_frozen: Final[list[bool]] = []  # not empty where it was we who froze
_before: Final[list[int]] = []  # the threshold that we raised


def calm() -> None:
    """Take what the process has loaded so far out of the collector's sight, and let it come less often.

    A batch that keeps its results makes the collector walk everything there is several times; what was there at the
    start is modules, classes and functions, which stay. Items in flight are seldom garbage: the more of them have ended
    before it looks, the fewer it looks at. Where somebody has frozen, or has chosen a rarer collection or none, theirs
    is left as it is.
    """
    if not gc.get_freeze_count():
        gc.freeze()
        _frozen.append(True)
    young, *older = gc.get_threshold()
    if 0 < young < _YOUNG:
        gc.set_threshold(_YOUNG, *older)
        _before.append(young)


def restore() -> None:
    """Undo what `calm` did, unless somebody has changed it since."""
    if _frozen:
        _frozen.clear()
        gc.unfreeze()
    if _before:
        young, *older = gc.get_threshold()
        if young == _YOUNG:
            gc.set_threshold(_before[0], *older)
        _before.clear()
