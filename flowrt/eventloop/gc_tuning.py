"""GC tuning: freeze start-up objects and raise the generation-0 threshold while a Runtime is active.

With a thousand items in flight, some fifteen thousand objects are young at any time, and hardly any of them is garbage.
By default the collector runs for every 700 new objects and examines the same live objects repeatedly. The settings
belong to the whole process, so a batch without a Runtime changes nothing.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from typing import Any, Final

__all__ = ["GcPauses", "freeze_loaded", "restore_gc", "tune_gc"]

_YOUNG: Final = 5_000  # above this, the cost per item does not change any more, and pauses get longer
_MOST_PAUSES: Final = 64


class _Tuning:
    """GC settings before tuning, restored when the last user leaves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.frozen = False
        self.before = 0  # the threshold that was raised, or 0


_tuning: Final = _Tuning()


def tune_gc() -> None:
    """Freeze all existing objects and raise the threshold to 5,000 new objects, until the last `restore_gc`.

    Most objects that exist before the first batch are modules, classes and functions, which stay, so a collection need
    not examine them. A process that has frozen objects itself, has a higher threshold, or has switched the collector
    off keeps its settings.
    """
    with _tuning.lock:
        _tuning.users += 1
        if _tuning.users > 1:
            return
        if not gc.get_freeze_count():
            gc.freeze()
            _tuning.frozen = True
        young, *older = gc.get_threshold()
        if 0 < young < _YOUNG:  # 0 means that the collector is off
            gc.set_threshold(_YOUNG, *older)
            _tuning.before = young


def freeze_loaded() -> None:
    """Freeze the objects loaded since `tune_gc`, if that froze any, so that full collections do not examine them."""
    with _tuning.lock:
        if _tuning.frozen:
            gc.freeze()


def restore_gc() -> None:
    """Undo `tune_gc`, except for a threshold that other code has set meanwhile."""
    with _tuning.lock:
        _tuning.users -= 1
        if _tuning.users:
            return
        if _tuning.frozen:
            gc.unfreeze()
        young, *older = gc.get_threshold()
        if _tuning.before and young == _YOUNG:
            gc.set_threshold(_tuning.before, *older)
        _tuning.frozen, _tuning.before = False, 0


class GcPauses:
    """Records the latest runs of the collector, during which no other code of the process ran."""

    def __init__(self) -> None:
        self._began_ns = 0
        self._latest: deque[tuple[int, int]] = deque(maxlen=_MOST_PAUSES)

    def start(self) -> None:
        """Start recording."""
        gc.callbacks.append(self._record)

    def stop(self) -> None:
        """Stop recording."""
        gc.callbacks.remove(self._record)

    def _record(self, phase: str, _: dict[str, Any]) -> None:
        now = time.perf_counter_ns()
        if phase == "start":
            self._began_ns = now
        elif self._began_ns:
            self._latest.append((self._began_ns, now))
            self._began_ns = 0

    def between(self, since_ns: int, until_ns: int) -> int:
        """Return the recorded running time of the collector in a period, in nanoseconds.

        Args:
            since_ns: Begin of the period, by `perf_counter_ns`.
            until_ns: End of the period.
        """
        pauses = [*self._latest.copy(), (self._began_ns or until_ns, until_ns)]
        return sum(max(0, min(end, until_ns) - max(began, since_ns)) for began, end in pauses)
