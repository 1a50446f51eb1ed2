"""The garbage collector, told what a process that runs batches knows: what is loaded stays, and items come and go.

With a thousand items in flight some fifteen thousand objects are young at any time, hardly one of them garbage, and
they come and go in waves. A collector that looks whenever 700 have come, as it does by itself, looks at all of them
again and again.
"""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Final

__all__ = ["Calm", "freeze", "unfreeze"]

_lock: Final = threading.Lock()
_wanted: Final[weakref.WeakSet[Calm]] = weakref.WeakSet()  # one that is lost without its end wants nothing
_before: Final[list[int]] = []  # the threshold that we raised, and
_ours: Final[list[int]] = []  # what we made of it
_frozen: Final[list[bool]] = []  # not empty where it was we who froze


class Calm:
    """For as long as it holds, the collector looks only once at least so many new objects are there.

    Of several the largest counts. Where somebody has chosen a rarer collection or none, that is left as it is, and what
    they choose meanwhile is there at the end.

    Args:
        young: How many; a collection looks at each of them that is alive, and nothing else runs meanwhile.
    """

    def __init__(self, young: int) -> None:
        self._young = young
        with _lock:
            _wanted.add(self)
            _settle()

    def resize(self, young: int) -> None:
        """From now on, so many."""
        with _lock:
            self._young = young
            _settle()

    def end(self) -> None:
        """Let it be as it was. Later calls do nothing."""
        with _lock:
            _wanted.discard(self)
            _settle()


def _settle() -> None:
    """Make the threshold what is wanted."""
    young, *older = gc.get_threshold()
    if _ours and young != _ours[0]:  # somebody else's since: it stays
        _before.clear()
    start = _before[0] if _before else young
    most = max((each._young for each in _wanted), default=0)  # noqa: SLF001  # this module's own
    wanted = max(start, most) if start > 0 else start
    if wanted != young:
        gc.set_threshold(wanted, *older)
    _before[:], _ours[:] = ([start], [wanted]) if wanted != start else ([], [])


def freeze() -> None:
    """Take what the process has loaded so far out of the collector's sight, unless somebody has done that before.

    A batch that keeps its results makes the collector walk everything there is several times; what was there at the
    start is modules, classes and functions, which stay.
    """
    if not gc.get_freeze_count():
        gc.freeze()
        _frozen.append(True)


def unfreeze() -> None:
    """Undo what `freeze` did."""
    if _frozen:
        _frozen.clear()
        gc.unfreeze()
