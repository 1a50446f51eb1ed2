"""Intervals in which an event loop was blocked or computing, kept once for the ledgers of all its batches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["BLOCKED", "BLOCKED_COMPUTING", "COMPUTING", "LATE_NS", "MOSTLY", "BusyTime", "LoopTime"]

LATE_NS: Final = 25_000_000
"""Lateness of a beat, in nanoseconds, from which the loop counts as blocked."""

BLOCKED, COMPUTING, BLOCKED_COMPUTING = range(3)  # the last: blocked by a turn that computed

MOSTLY: Final = 0.9
"""Share of a thread's time from which it counts as computing, so that further work would only wait for it."""

_MISSED_NS: Final = 2_000_000  # lateness of a beat that a turn caused, and no rounding of the timer
_SHORT_NS: Final = 1_000_000  # all of so short a batch counts as busy, since reading a thread's CPU time takes long
_SPARE: Final = 256  # entries that may be dropped before the list is copied

Interval = tuple[int, int, int]
"""State of the loop (`BLOCKED`, `COMPUTING` or `BLOCKED_COMPUTING`), begin and end in nanoseconds."""


class LoopTime:
    """Log of intervals in order of time. The heartbeat appends to it; each ledger reads from its own position.

    Args:
        cpu_clock: Returns the CPU time of the loop's thread in nanoseconds; any thread may call it.

    Attributes:
        due_ns: When the next beat is due. If it has not come `LATE_NS` later, the loop has been blocked since
            `due_ns`. Far in the future while there are no beats.
        ended_ns: When the last interval ended; 0 before the first.
        beaten_cpu_ns: CPU time of the loop's thread at its latest beat.
        blocked_cpu_ns: The part of it in which the loop was blocked.
        missed_ns: Time in which beats came late, or the thread never rested, and the loop was not blocked.
    """

    __slots__ = ("_cpu_clock", "_log", "beaten_cpu_ns", "blocked_cpu_ns", "due_ns", "ended_ns", "missed_ns")

    def __init__(self, cpu_clock: Callable[[], int] = int) -> None:
        self._cpu_clock = cpu_clock
        self.beaten_cpu_ns = 0
        self.due_ns = sys.maxsize
        self.ended_ns = 0
        self.blocked_cpu_ns = self.missed_ns = 0
        # One tuple, replaced as a whole, so that other threads read a position and intervals that belong together.
        self._log: tuple[int, list[Interval]] = (0, [])

    @property
    def position(self) -> int:
        """Position of the last interval, which may still grow."""
        first, intervals = self._log
        return first + max(0, len(intervals) - 1)

    def position_at(self, position: int, now_ns: int) -> int:
        """Find the first interval that ends after a time.

        Args:
            position: Start of the search.
            now_ns: The time.

        Returns:
            Its position; that of the last interval if none ends later.
        """
        first, intervals = self._log
        last = len(intervals) - 1
        place = max(0, position - first)
        while place < last and intervals[place][2] <= now_ns:
            place += 1
        return first + place

    def add(self, kind: int, begin_ns: int, end_ns: int) -> None:
        """Append an interval. A computing interval extends the last one if that is adjacent and computing as well.

        Args:
            kind: `BLOCKED`, `COMPUTING` or `BLOCKED_COMPUTING`.
            begin_ns: Begin of the interval; not before the end of the last one.
            end_ns: End of the interval.
        """
        if end_ns <= begin_ns:
            return
        intervals = self._log[1]
        if kind == COMPUTING and intervals and intervals[-1][0] == kind and intervals[-1][2] == begin_ns:
            intervals[-1] = (kind, intervals[-1][1], end_ns)
        else:
            intervals.append((kind, begin_ns, end_ns))
        self.ended_ns = end_ns

    def add_beat(self, passed_ns: int, late_ns: int, cpu_ns: int, *, rested: bool) -> None:
        """Add the time since the previous beat, unless the loop has slept all the while.

        On a processor that other programs share, the thread gets less CPU time than its turns take. So a late beat,
        which shows that the loop was in a turn, counts all the time since the previous beat as busy.

        Args:
            passed_ns: The time since then.
            late_ns: How late the beat came.
            cpu_ns: CPU time of the loop's thread meanwhile.
            rested: False if the thread has not waited for anything meanwhile.
        """
        if late_ns >= LATE_NS:  # items are examined for the delay of a blocked loop, one by one
            self.blocked_cpu_ns += min(cpu_ns, late_ns)
            passed_ns -= late_ns
        if not rested or _MISSED_NS <= late_ns < LATE_NS:
            self.missed_ns += passed_ns

    def drop_before(self, position: int) -> None:
        """Drop the intervals that every ledger has read.

        Args:
            position: The first position that is still needed.
        """
        first, intervals = self._log
        if position - first >= _SPARE:
            self._log = (position, intervals[position - first :])

    def between(self, position: int, opened_ns: int, since_ns: int, now_ns: int) -> Iterator[Interval]:
        """Read the intervals that overlap a period, cut to it.

        Args:
            position: Position of the first interval to read.
            opened_ns: When the batch started. Lateness counts from then on; otherwise the rest of a long turn could be
                the only cause that a short batch reports.
            since_ns: Begin of the period.
            now_ns: End of the period. If the loop is late, it is blocked until then.
        """
        first, intervals = self._log
        due_ns = self.due_ns
        for kind, begin_ns, end_ns in intervals[max(0, position - first) :]:
            if end_ns <= since_ns or (kind != COMPUTING and end_ns - max(begin_ns, opened_ns) < LATE_NS):
                continue
            if begin_ns >= now_ns:
                break
            yield kind, max(begin_ns, since_ns), min(end_ns, now_ns)
        if now_ns - max(due_ns, opened_ns) >= LATE_NS and now_ns > since_ns:
            computes = self._cpu_clock() - self.beaten_cpu_ns > MOSTLY * (now_ns - due_ns)
            yield BLOCKED_COMPUTING if computes else BLOCKED, max(due_ns, since_ns), now_ns


class BusyTime:
    """Time for which the loop is busy and not blocked while a batch is active.

    It includes the time between the batch's start and the beat before it, at which the thread's CPU time was last read:
    reading it anew takes long.

    Args:
        loop_time: The intervals of the batch's loop.
    """

    __slots__ = ("_cpu_ns", "_ended_ns", "_loop_time", "_missed_ns")

    def __init__(self, loop_time: LoopTime) -> None:
        self._loop_time: LoopTime | None = loop_time
        self._cpu_ns = loop_time.beaten_cpu_ns - loop_time.blocked_cpu_ns
        self._missed_ns = loop_time.missed_ns
        self._ended_ns = 0

    def end(self, wall_ns: int, late_ns: int) -> None:
        """Record the end of the batch. The loop's thread calls this.

        Args:
            wall_ns: How long the batch took, which is the longest that the loop can have been busy.
            late_ns: How late the next beat is already. If the loop is blocked, its time is left out.
        """
        loop_time = self._loop_time
        if loop_time is not None and wall_ns >= _SHORT_NS:
            cpu_ns = time.thread_time_ns()
            if late_ns >= LATE_NS:
                cpu_ns -= max(0, min(late_ns, cpu_ns - loop_time.beaten_cpu_ns))
            wall_ns = min(wall_ns, self._until(loop_time, cpu_ns))
        self._ended_ns = wall_ns
        self._loop_time = None  # or the results would keep the loop's state, and could not be pickled

    @property
    def ns(self) -> int:
        """Nanoseconds; until the batch's end, those before the latest beat."""
        loop_time = self._loop_time
        return self._ended_ns if loop_time is None else self._until(loop_time, loop_time.beaten_cpu_ns)

    def _until(self, loop_time: LoopTime, cpu_ns: int) -> int:
        computed_ns = cpu_ns - loop_time.blocked_cpu_ns - self._cpu_ns
        return max(0, computed_ns, loop_time.missed_ns - self._missed_ns)  # the last is larger on a shared processor
