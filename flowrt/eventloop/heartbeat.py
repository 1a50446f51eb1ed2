"""Heartbeat of an event loop: a timer whose lateness is the time for which the loop was blocked.

It beats forty times a second while there are listeners, and faster after a late beat, since a loop that was blocked
once is often blocked again. The cost of a beat does not depend on the number of waiting batches: the loop's state is
recorded once, in `LoopTime`, and items are examined only after a late beat or, in samples, while the loop is busy.
Without a watchdog, a loop that was idle except for beats for half a second gets twenty beats a second.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from flowrt._util.cpu_time import thread_cpu_clock, thread_waits
from flowrt.attribution.loop_time import BLOCKED, BLOCKED_COMPUTING, COMPUTING, LATE_NS, MOSTLY, LoopTime
from flowrt.eventloop.delayed_items import TURNS, Ended, Lateness, LivelyBatches, Waiting, note_waiting, sample_ready
from flowrt.model import BatchRecord, ItemRecord

__all__ = ["BEAT_S", "Heartbeat", "LoopSampler", "heartbeat_of"]

BEAT_S: Final = 0.025
_IDLE_BEAT_S: Final = 0.05
_IDLE_AFTER: Final = 20  # beats in a row between which the loop has slept
_SOON_S: Final = 0.001  # the first interval after a late beat; it doubles with each beat in time
_SLOW_NS: Final = 5_000_000  # a turn of the loop this long has made items wait
_BUSY: Final = 0.5  # the share from which on items are likely to wait for each other
_NOTE_EVERY_NS: Final = 250_000  # of CPU time: while the loop runs nothing but beats, the notes stay valid
_ASLEEP_NS: Final = 3_000_000  # CPU time of an interval with one wait, up to which the loop has only beaten
# Times a beat's own CPU time, so that beats take at most a tenth of the loop. The time for which this beat was late is
# part of that rest: a loop that blocks again and again is to be seen from the begin of each block. A stall that begins
# during the rest is seen only from its end on, so the rest is bounded: a garbage collection may come within a beat.
_LEAST_REST: Final = 10
_MOST_REST_S: Final = 0.1
_SETTLED: Final = 128  # one in so many ledgers is settled with each interval, so that none falls far behind
_MOST_SAMPLED: Final = 256  # batches sampled in turn at a beat of a busy loop
_LEAST_LOOKED_AT: Final = 200  # slots and batches looked at after a late beat, and more
_LOOK_SHARE: Final = 20  # for this part of the late time: the looks of later turns take as long again

Report = Callable[[int], object]

_heartbeats: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Heartbeat] = weakref.WeakKeyDictionary()
_numbers: Final = itertools.count(1)
_latest: Heartbeat | None = None  # returned by the latest call: every batch makes one, and a process has few loops


class LoopSampler(Protocol):
    """Interface of the watchdog, whose thread samples the loop while it is blocked."""

    def seen(self, beaten_ns: int) -> list[asyncio.Task[Any] | None]:
        """Return the task that had the loop at each sample since a beat; empty if there was no sample."""

    def ready(self, beaten_ns: int) -> Mapping[int, int]:
        """Return the `id` of each item seen ready while another task had the loop, with the time of the last sample."""

    def waiting(self, beaten_ns: int) -> Waiting:
        """Return the futures that items waited for after another task had had the loop for a while."""

    def culprit(self, lateness: Lateness) -> dict[str, Any]:
        """Return the fields of `Stall` that describe the culprit, as far as known, once the loop turns again."""


class Heartbeat:
    """Heartbeat of one loop, which beats while there are listeners.

    The timer outlives the last listener until it is due: a service that runs one short batch after another would
    otherwise set and cancel a timer for each. A loop of virtual time is never late and gets no beats.

    Args:
        loop: The loop to measure.

    Attributes:
        loop_time: When the loop was blocked or computing, for the ledgers of its batches.
        beaten_ns: When the latest beat ended, by `perf_counter_ns`; 0 before the first.
        slow_ns: Time after which the end of an item belongs to a long turn of the loop; see `add_ended`.
    """

    __slots__ = (
        "__weakref__",
        "_batches",
        "_ended",
        "_ended_ns",
        "_interval_s",
        "_listeners",
        "_lively",
        "_loop",
        "_number",
        "_offset",
        "_reports",
        "_sampler",
        "_slept",
        "_turned_ns",
        "_unnoted_ns",
        "_waited",
        "_waiting",
        "beaten_ns",
        "loop_time",
        "slow_ns",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._listeners = 0
        self._reports: dict[Report, int] = {}
        self._sampler: LoopSampler | None = None
        self._batches: OrderedDict[BatchRecord, int] = OrderedDict()  # with the position at which each was settled
        self._ended: Ended = {}
        self._ended_ns = 0  # when the latest item of these ended
        # Number of the timer, 0 while none is set. The timer's handle, instead, would keep the loop alive.
        self._number = 0
        self._turned_ns = 0  # when the latest beat began
        self._waited = 0
        self._waiting: Waiting = {}  # at the latest beat, or at an earlier one after which the loop has hardly run
        self._unnoted_ns = _NOTE_EVERY_NS  # CPU time of the loop since then
        self._offset = 0
        self._lively = LivelyBatches()
        self._slept = 0  # beats in a row between which the loop has slept
        self._interval_s = BEAT_S
        self.loop_time = LoopTime()
        self.beaten_ns = 0
        self.slow_ns = sys.maxsize

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop; None once it is gone."""
        return self._loop()

    def acquire(self, report: Report | None = None, *, sampler: LoopSampler | None = None) -> None:
        """Add a listener. The first one starts the beats.

        Args:
            report: Called with the lateness of each beat in nanoseconds; a function passed twice is called once.
            sampler: Samples the blocked loop from now on, in place of an earlier sampler.
        """
        if sampler is not None:
            self._sampler = sampler
        if report is not None:
            self._reports[report] = self._reports.get(report, 0) + 1
        self._listeners += 1
        if self._listeners == 1:
            if self._number:
                if time.perf_counter_ns() <= self.loop_time.due_ns:
                    return
                self._stop()  # the loop was blocked while there was no listener
            self._start()

    def release(self, report: Report | None = None, *, sampler: LoopSampler | None = None) -> None:
        """Remove a listener. The last one stops the beats.

        Args:
            report: The function given to `acquire`.
            sampler: The sampler given to `acquire`.
        """
        if self._listeners == 1:
            now = time.perf_counter_ns()
            if now > self.loop_time.due_ns:  # a batch that never let the loop turn: the beat would have come that late
                self._measure(now, time.thread_time_ns())
                self._stop()
            self._forget()
        self._listeners -= 1
        if report is not None:
            self._reports[report] -= 1
            if not self._reports[report]:
                del self._reports[report]
        if sampler is not None and self._sampler is sampler:
            self._sampler = None

    def watch(self, batch: BatchRecord) -> None:
        """Charge blocked and computing time of the loop to a batch's ledger, from the batch's start on."""
        self.acquire()
        if self._number and batch.ledger is not None:
            batch.ledger.follow(self.loop_time, shared=batch.expected != 1)  # an only item never waits for another
            self._batches[batch] = self.loop_time.position
            self._lively[batch] = 0

    def unwatch(self, batch: BatchRecord) -> None:
        """Stop charging a batch that has ended."""
        if self._batches.pop(batch, None) is not None and (ledger := batch.ledger) is not None:
            late_ns = batch.finished_ns - self.loop_time.due_ns
            if late_ns >= LATE_NS:  # in a turn that took long
                lateness = self._lateness(batch.finished_ns, self._ended)
                lateness.look(batch)
                self._conclude(lateness)
            if ledger.busy_time is not None:
                ledger.busy_time.end(batch.finished_ns - batch.started_ns, late_ns)
        self._ended.pop(batch, None)
        self._lively.pop(batch, None)
        self.release()

    def add_ended(self, item: ItemRecord) -> None:
        """Note an item that has ended after `slow_ns`, so that its delay is known when the loop turns again.

        Args:
            item: An item that leaves its slot in the same turn, so that no later sample would find it.
        """
        self._ended.setdefault(item.batch, []).append((item, self._ended_ns))
        self._ended_ns = item.finished_ns

    # -- internal ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        loop = self._loop()
        if loop is not None and abs(loop.time() - time.monotonic()) < 1.0:
            self._interval_s = BEAT_S
            self._turned_ns = time.perf_counter_ns()
            self.loop_time = LoopTime(thread_cpu_clock())
            self._number = next(_numbers)
            self._arm(loop)

    def _stop(self) -> None:
        self._number = 0
        self.loop_time, self.slow_ns = LoopTime(), sys.maxsize

    def _forget(self) -> None:
        """Release items and tasks."""
        if self._ended:
            self._ended.clear()
        if self._waiting:
            self._waiting = {}
            self._unnoted_ns = _NOTE_EVERY_NS

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self.beaten_ns = now = time.perf_counter_ns()
        self.loop_time.due_ns = now + int(self._interval_s * 1e9)
        self.slow_ns = self.loop_time.due_ns + _SLOW_NS
        self.loop_time.beaten_cpu_ns = time.thread_time_ns()
        self._waited = thread_waits()
        loop.call_later(self._interval_s, self._beat, self._number)

    def _beat(self, number: int) -> None:
        if number != self._number:  # the heartbeat was stopped meanwhile, and perhaps started again
            return
        if not self._listeners:
            self._stop()
            return
        now, due_ns, slow = time.perf_counter_ns(), self.loop_time.due_ns, True
        began_cpu_ns = time.thread_time_ns()  # wall time is the machine's, too: it may give the core to others
        try:
            slow = self._measure(now, began_cpu_ns)
        finally:  # the next beat comes even if this one fails
            loop = self._loop()
            if loop is not None:
                self._turned_ns = now
                if self._unnoted_ns >= _NOTE_EVERY_NS:
                    self._unnoted_ns = 0
                    self._waiting = note_waiting(self._batches)
                usual_s = _IDLE_BEAT_S if self._slept >= _IDLE_AFTER and self._sampler is None else BEAT_S
                interval_s = _SOON_S if slow else min(2 * self._interval_s, usual_s)
                rest_ns = _LEAST_REST * (time.thread_time_ns() - began_cpu_ns) - max(0, now - due_ns)
                self._interval_s = max(interval_s, min(rest_ns / 1e9, _MOST_REST_S))
                self._arm(loop)  # from the end of the beat on: its own work is not the loop's lateness

    def _measure(self, now: int, now_cpu_ns: int) -> bool:
        """Report the lateness, record blocked or computing time, and return True if work on the loop made it late."""
        loop_time, due_ns = self.loop_time, self.loop_time.due_ns
        late_ns = max(0, now - due_ns)
        for report in self._reports:
            report(late_ns)
        passed_ns = max(1, now - self.beaten_ns)
        cpu_ns, waits = now_cpu_ns - loop_time.beaten_cpu_ns, thread_waits() - self._waited
        slept = waits == 1 and cpu_ns < _ASLEEP_NS  # for this beat alone: if that is late, the machine was busy
        self._slept = self._slept + 1 if slept else 0
        if slept and late_ns < _SLOW_NS:
            return False
        rested = waits > 0 or self._waited < 0  # below 0: unknown
        loop_time.add_beat(passed_ns, 0 if slept else late_ns, cpu_ns, rested=rested)
        if not rested:  # on a processor that it shares, it gets less than all and never rests
            cpu_ns = passed_ns
        self._unnoted_ns += cpu_ns
        share = cpu_ns / passed_ns
        late = late_ns >= LATE_NS
        before = loop_time.position
        if share > MOSTLY:
            loop_time.add(COMPUTING, self._turned_ns, due_ns if late else now)
        if late:
            loop_time.add(BLOCKED_COMPUTING if cpu_ns > MOSTLY * late_ns else BLOCKED, due_ns, now)
        if loop_time.position != before:
            self._settle_some(now)
        ended = self._ended
        if ended:
            self._ended = {}
        slow = late_ns >= _SLOW_NS
        if late:
            self._look(self._lateness(now, ended), ended)
        elif slow or share > _BUSY:
            self._sample(passed_ns)
        return slow and not slept

    def _settle_some(self, now: int) -> None:
        """Charge the ledgers that have not been charged for longest, and drop the intervals that all have read."""
        batches, position = self._batches, self.loop_time.position
        for _ in range(min(len(batches), len(batches) // _SETTLED + 1)):
            batch = next(iter(batches))
            if batch.ledger is not None:
                batch.ledger.settle(now)
            batches[batch] = position
            batches.move_to_end(batch)
        self.loop_time.drop_before(next(iter(batches.values()), position))

    def _sample(self, passed_ns: int) -> None:
        """Sample items of a busy loop: of lively batches at each beat, of the others in turn for several beats each."""
        lively = self._lively
        lively.drop_oldest()
        for batch in [*lively]:
            lively.note(batch, waited=sample_ready(batch, passed_ns) > 1)
        turn = self._in_turn()[:_MOST_SAMPLED]
        self._offset += len(turn)
        others = [batch for batch in turn if batch not in lively]
        for_ns = passed_ns * (len(self._batches) - len(lively)) // max(1, len(others))
        for batch in others:
            lively.note(batch, waited=sample_ready(batch, for_ns) > 1)

    def _in_turn(self) -> list[BatchRecord]:
        """Return the batches, least recently examined first."""
        batches = list(self._batches)
        begin = self._offset = self._offset % max(1, len(batches))
        return batches[begin:] + batches[:begin]

    def _look(self, lateness: Lateness, ended: Ended) -> None:
        """Find the delayed items of the batches, in a tenth of the late time: a longer search needs a rest after it.

        Of what happens during a rest, only the part after it counts as late.
        """
        left = _LEAST_LOOKED_AT
        until_ns = time.thread_time_ns() + lateness.late_ns // _LOOK_SHARE
        for batch in ended:
            if batch in self._batches:
                self._lively.note(batch, waited=lateness.look(batch))
        self._lively.drop_oldest()
        looked, in_order = set(ended), [*self._lively, *self._in_turn()]
        self._offset -= len(self._lively)
        for batch in in_order:
            if left <= 0 and time.thread_time_ns() >= until_ns:
                break
            left -= 1 + len(batch.slots)
            self._offset += 1
            if batch not in looked:
                looked.add(batch)
                self._lively.note(batch, waited=lateness.look(batch))
        self._look_again(lateness, TURNS)

    def _lateness(self, now: int, ended: Ended) -> Lateness:
        sampler, beaten_ns = self._sampler, self.beaten_ns
        if sampler is None:
            return Lateness(beaten_ns, self.loop_time.due_ns, now, ended=ended, waited=self._waiting)
        seen, ready = sampler.seen(beaten_ns), sampler.ready(beaten_ns)
        waited = self._waiting | sampler.waiting(beaten_ns)
        return Lateness(beaten_ns, self.loop_time.due_ns, now, seen=seen, ready=ready, ended=ended, waited=waited)

    def _look_again(self, lateness: Lateness, turns: int) -> None:
        """Examine the waiting items again in each of the next turns, then record the stall."""
        began = time.perf_counter_ns()
        loop = self._loop()
        if turns < TURNS:
            lateness.look_again()
        if turns and loop is not None and not loop.is_closed() and lateness.waits:
            loop.call_soon(self._look_again, lateness, turns - 1)
        else:
            self._conclude(lateness)
        if turns < TURNS:  # in a turn after the beat, whose lateness this work is not
            self.loop_time.due_ns += time.perf_counter_ns() - began

    def _conclude(self, lateness: Lateness) -> None:
        culprit = {} if self._sampler is None else self._sampler.culprit(lateness)
        if culprit or lateness.is_stall:
            lateness.keep(culprit)


def heartbeat_of(loop: asyncio.AbstractEventLoop) -> Heartbeat:
    """Return the loop's only heartbeat."""
    global _latest  # noqa: PLW0603  # a look-up in a WeakKeyDictionary takes longer than all other work here
    heartbeat = _latest
    if heartbeat is None or heartbeat.loop is not loop:
        heartbeat = _heartbeats.get(loop)
        if heartbeat is None:
            _forget_closed_loops()
            heartbeat = _heartbeats[loop] = Heartbeat(loop)
        _latest = heartbeat
    return heartbeat


def _forget_closed_loops() -> None:
    """Drop the heartbeats of closed loops: if batches were active on one, their tasks keep the loop alive."""
    for ref in _heartbeats.keyrefs():  # one step, as other threads may add theirs
        loop = ref()
        if loop is not None and loop.is_closed():
            _heartbeats.pop(loop, None)
