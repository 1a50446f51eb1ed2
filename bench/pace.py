"""Pace of the machine: the unit in which times are compared.

A shared core is at times half as fast as a moment before. So a fixed piece of work is timed at intervals during a
measurement, in the same process and on the same core; times in units of it hardly change. The time that this takes is
subtracted from the measurement.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["Pace", "pacing"]

_EVERY_S: Final = 0.02
_TURNS: Final = 50
_TRIES: Final = 3  # the first finds the processor's caches filled by other code


class Pace:
    """Pace of the machine during a measurement.

    Attributes:
        own_s: Processor time that finding the pace has taken, in seconds.
    """

    def __init__(self) -> None:
        self.own_s = 0.0
        self._rates: list[float] = []

    def look(self) -> None:
        """Time the fixed work once."""
        started = time.process_time()
        self._rates.append(_TURNS / min(_timed() for _ in range(_TRIES)))
        self.own_s += time.process_time() - started

    @property
    def us(self) -> float:
        """Processor time of one turn of the fixed work in microseconds: the inverse of the mean rate."""
        return len(self._rates) / sum(self._rates) * 1e6


@contextmanager
def pacing() -> Iterator[Pace]:
    """Follow the pace within the block; a timer's signal interrupts the main thread for it."""
    pace = Pace()
    pace.look()
    pace.own_s = 0.0
    before = signal.signal(signal.SIGALRM, lambda *_: pace.look())
    signal.setitimer(signal.ITIMER_REAL, _EVERY_S, _EVERY_S)
    try:
        yield pace
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Thing:
    __slots__ = ("first", "second")

    def __init__(self, first: int, second: int) -> None:
        self.first = first
        self.second = second

    def total(self, more: int) -> int:
        return self.first + self.second + more


async def _echo(value: int) -> int:
    return value


def _timed() -> float:
    """Seconds for work like a runtime's for an item: an object, a tuple, a method, a dictionary, a coroutine."""
    kept: dict[int, Any] = {}
    started = time.perf_counter()
    for number in range(_TURNS):
        thing = _Thing(number, number + 1)
        coroutine = _echo(number)
        try:
            coroutine.send(None)
        except StopIteration as end:
            kept[number & 255] = (thing, thing.total(number), [end.value])
    return time.perf_counter() - started
