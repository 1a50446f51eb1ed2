"""The loop's heartbeat: how late it comes is how long the loop was blocked, and by whom and to whose cost is found out.

A beat is a timer of the loop's own. It comes forty times a second while somebody listens, and right away again after
a late one, since a loop that was blocked once often is again.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

from flowrt.attribution.ledger import LATE_NS
from flowrt.eventloop.delayed_items import TURNS, Lateness, sample_ready
from flowrt.model import BatchRecord

__all__ = ["BEAT_S", "Blame", "Heartbeat", "heartbeat_of"]

BEAT_S: Final = 0.025
_SOON_S: Final = 0.001  # the first beat after a late one; each that is in time is followed by one after twice as long
_SLOW_NS: Final = 5_000_000  # a turn of the loop that took so long kept items waiting
_COMPUTING: Final = 0.9  # the share of its time that a loop's thread computes when more work would only wait for it
_BUSY: Final = 0.5  # the share from which on items are likely to wait for each other

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # neither on Windows nor on macOS

    def _waits() -> int:
        return -1
else:

    def _waits() -> int:
        """How often this thread has given its processor up to wait for something."""
        return getrusage(RUSAGE_THREAD).ru_nvcsw


Report = Callable[[int], object]

_heartbeats: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Heartbeat] = weakref.WeakKeyDictionary()


class Blame(Protocol):
    """What watches from outside while the loop is blocked."""

    def seen(self, beaten_ns: int) -> list[asyncio.Task[Any] | None]:
        """Who had the loop since that beat, at each look that was taken; empty where none was."""

    def culprit(self, lateness: Lateness) -> dict[str, Any]:
        """The loop turns again: say who blocked it, as far as was seen; for a `Stall`."""


class Heartbeat:
    """The beats of one loop, for as long as somebody listens.

    A loop whose time is virtual has no lag and gets no beats.

    Args:
        loop: The loop to measure.

    Attributes:
        beaten_ns: When the latest beat came, by `perf_counter_ns`; 0 before the first.
        blame: What looks at the loop from another thread, if anything does.
    """

    __slots__ = (
        "__weakref__",
        "_batches",
        "_cpu_ns",
        "_due_ns",
        "_interval_s",
        "_listeners",
        "_loop",
        "_reports",
        "_timer",
        "_waited",
        "beaten_ns",
        "blame",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._listeners = 0
        self._reports: dict[Report, int] = {}
        self._batches: dict[BatchRecord, int] = {}  # with how many items each had in flight at the last beat
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._cpu_ns = 0
        self._waited = 0
        self._interval_s = BEAT_S
        self.beaten_ns = 0
        self.blame: Blame | None = None

    def acquire(self, report: Report | None = None) -> None:
        """Start beating, or go on.

        Args:
            report: Called with each beat's lateness in nanoseconds, once however often it was given here.
        """
        if report is not None:
            self._reports[report] = self._reports.get(report, 0) + 1
        self._listeners += 1
        loop = self._loop()
        if self._listeners == 1 and loop is not None and abs(loop.time() - time.monotonic()) < 1.0:
            self._interval_s = BEAT_S
            self._arm(loop, time.perf_counter_ns())

    def release(self, report: Report | None = None) -> None:
        """Stop beating when nobody else listens.

        Args:
            report: What was given to `acquire`.
        """
        if self._listeners == 1 and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            now = time.perf_counter_ns()
            if now > self._due_ns:  # a batch that never let the loop turn: this beat would have come that late
                self._tell(now)
        self._listeners -= 1
        if report is not None:
            self._reports[report] -= 1
            if not self._reports[report]:
                del self._reports[report]

    def watch(self, batch: BatchRecord) -> None:
        """Tell a batch's ledger of every beat, from its start on."""
        self.acquire()
        if self._timer is not None and batch.ledger is not None:
            self._batches[batch] = 0
            batch.ledger.due_ns = max(self._due_ns, time.perf_counter_ns())

    def unwatch(self, batch: BatchRecord) -> None:
        """The batch has ended."""
        before = self._batches.pop(batch, None)
        if before is not None and batch.finished_ns - self._due_ns >= LATE_NS:  # in a turn that took long
            lateness = self._lateness(batch.finished_ns)
            lateness.look(batch, before)
            self._conclude(lateness)
        self.release()

    # -- within -----------------------------------------------------------------------------------------------------

    def _arm(self, loop: asyncio.AbstractEventLoop, now: int) -> None:
        self.beaten_ns = now
        self._due_ns = now + int(self._interval_s * 1e9)
        self._cpu_ns = time.thread_time_ns()
        self._waited = _waits()
        self._timer = loop.call_later(self._interval_s, self._beat)

    def _beat(self) -> None:
        now, late = time.perf_counter_ns(), True
        try:
            late = self._tell(now)
        finally:  # the next beat comes whatever becomes of this one
            loop = self._loop()
            if loop is not None:
                self._interval_s = _SOON_S if late else min(2 * self._interval_s, BEAT_S)
                self._arm(loop, now)
                for batch in self._batches:
                    if batch.ledger is not None:
                        batch.ledger.due_ns = self._due_ns

    def _tell(self, now: int) -> bool:
        """Report how late the loop is, and charge it where it is blocked; says whether it is slow."""
        late_ns = max(0, now - self._due_ns)
        for report in self._reports:
            report(late_ns)
        slow = late_ns >= _SLOW_NS
        passed_ns = max(1, now - self.beaten_ns)
        share = (time.thread_time_ns() - self._cpu_ns) / passed_ns
        if _waits() == self._waited >= 0:  # on a processor that it shares it gets less than all, and never rests
            share = 1.0
        lateness = self._lateness(now) if late_ns >= LATE_NS else None
        for batch in self._batches:
            if batch.ledger is not None:
                if lateness is not None:
                    lateness.look(batch, self._batches[batch])
                elif slow or share > _BUSY:
                    sample_ready(batch, passed_ns)
                batch.ledger.beat(now, batch.latest_ns, computing=share > _COMPUTING)
                self._batches[batch] = batch.pulled - batch.completed - batch.queued
        if lateness is not None:
            self._look_again(lateness, TURNS)
        return slow

    def _lateness(self, now: int) -> Lateness:
        seen = [] if self.blame is None else self.blame.seen(self.beaten_ns)
        return Lateness(self.beaten_ns, self._due_ns, now, seen)

    def _look_again(self, lateness: Lateness, turns: int) -> None:
        """Look at the victims once more in each of the next turns, and then write the stall down."""
        loop = self._loop()
        if turns < TURNS:
            lateness.look_again()
        if turns and loop is not None and not loop.is_closed() and lateness.waits:
            loop.call_soon(self._look_again, lateness, turns - 1)
        else:
            self._conclude(lateness)

    def _conclude(self, lateness: Lateness) -> None:
        culprit = {} if self.blame is None else self.blame.culprit(lateness)
        if culprit or lateness.is_stall:
            lateness.keep(culprit)


def heartbeat_of(loop: asyncio.AbstractEventLoop) -> Heartbeat:
    """The loop's one heartbeat."""
    heartbeat = _heartbeats.get(loop)
    if heartbeat is None:
        heartbeat = _heartbeats[loop] = Heartbeat(loop)
    return heartbeat
