"""The garbage collector, told what a process that runs batches knows: what is loaded stays, and items come and go.

With a thousand items in flight some fifteen thousand objects are young at any time, hardly one of them garbage, and
they come and go in waves. A collector that looks whenever 700 have come, as it does by itself, looks at all of them
again and again.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import deque
from typing import Any, Final

__all__ = ["GcPauses", "GcThreshold", "freeze", "unfreeze"]

_LATEST: Final = 64  # pauses that are remembered

_lock: Final = threading.Lock()
_wanted: Final[weakref.WeakSet[GcThreshold]] = weakref.WeakSet()  # one that is lost without its end wants nothing
_before: Final[list[int]] = []  # the threshold that we raised, and
_ours: Final[list[int]] = []  # what we made of it
_frozen: Final[list[bool]] = []  # not empty where it was we who froze


class GcThreshold:
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


class GcPauses:
    """When the collector ran of late: meanwhile nothing else did, in whatever thread it was."""

    def __init__(self) -> None:
        self._began_ns = 0
        self._latest: deque[tuple[int, int]] = deque(maxlen=_LATEST)

    def start(self) -> None:
        """Take note from now on."""
        gc.callbacks.append(self._told)

    def stop(self) -> None:
        """Take note no longer."""
        gc.callbacks.remove(self._told)

    def _told(self, phase: str, _: dict[str, Any]) -> None:
        now = time.perf_counter_ns()
        if phase == "start":
            self._began_ns = now
        elif self._began_ns:
            self._latest.append((self._began_ns, now))
            self._began_ns = 0

    def between(self, since_ns: int, until_ns: int) -> int:
        """For how long it ran in that time, in nanoseconds, as far as is remembered.

        Args:
            since_ns: By `perf_counter_ns`.
            until_ns: The same.
        """
        pauses = [*self._latest.copy(), (self._began_ns or until_ns, until_ns)]
        return sum(max(0, min(end, until_ns) - max(began, since_ns)) for began, end in pauses)


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
