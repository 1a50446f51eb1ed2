"""Ledger of a batch: divides the batch's wall time by cause.

The cause changes only when a wait begins or ends: a slot waits for an input, an attempt for its rate limit, a result
for the consumer. Time is charged at these points, which are slow paths, so an item that never waits costs nothing. The
intervals in which the loop was blocked or computing are kept once for all batches, in `LoopTime`; a ledger reads them
when it charges time. Times are nanoseconds of the batch's monotonic clock, and sums are exact.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, Protocol, get_args

from flowrt.attribution.loop_time import BLOCKED_COMPUTING, COMPUTING, LATE_NS, BusyTime, LoopTime
from flowrt.attribution.stalls import DelayTotals
from flowrt.attribution.timeline import Timeline

__all__ = [
    "BACKOFF",
    "CAUSES",
    "CONSUMER",
    "INPUT",
    "LOOP_BLOCKED",
    "PAUSED",
    "RATE_LIMIT",
    "SERVICE",
    "SLOTS",
    "TAIL",
    "Cause",
    "Ledger",
    "Progress",
]

Cause = Literal["input", "paused", "slots", "rate_limit", "backoff", "loop_blocked", "consumer", "tail", "service"]

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
"""All causes, as `docs/explain.md` defines them."""

INPUT, PAUSED, SLOTS, RATE_LIMIT, BACKOFF, LOOP_BLOCKED, CONSUMER, TAIL, SERVICE = range(len(CAUSES))

_BY_PRECEDENCE: Final = (PAUSED, CONSUMER, RATE_LIMIT, BACKOFF, INPUT)  # waits; the first that is on is the cause

_HAVE_ITEMS: Final[tuple[Cause, ...]] = ("slots", "tail", "service")  # causes under which an item has a slot

_NO_TIME: Final = (0,) * len(CAUSES)
_ZEROS: Final = array("q", _NO_TIME)  # shared by all ledgers that have no charge and no wait yet
_creating: Final = threading.Lock()
_NO_LOOP: Final = LoopTime()  # stands for a loop without a heartbeat


class Progress(Protocol):
    """Progress of a batch through its input: the fields that its ledger reads."""

    @property
    def expected(self) -> int | None:
        """Number of inputs, or None if unknown."""

    @property
    def pulled(self) -> int:
        """Number of inputs pulled so far."""

    @property
    def queued(self) -> int:
        """Number of items that wait for a retry, a rate limit or an open circuit."""

    @property
    def latest_ns(self) -> int:
        """When an item last got a slot, by the batch's clock."""


class Ledger:
    """Charges each instant of one batch to exactly one cause.

    Of several causes at once, the first in this order is charged: a blocked loop, a pause, the consumer, a rate limit,
    backoff, the input. Without any of them, the cause is `slots` while inputs are left, `service` while every item
    that is left is running, and `tail` while the last items run beside empty slots.

    Args:
        batch: The batch's record; None for a batch of unknown length that pulls nothing.

    Attributes:
        charged: Nanoseconds charged so far, by cause.
        since_ns: End of the charged time.
        left: Number of items that were still running or queued when the input was exhausted.
        blocked_computing_ns: The part of `loop_blocked` in which the loop's thread computed.
        computing_ns: The part of `service` in which the loop's thread computed while items waited for slots.
        workerless_ns: Nanoseconds of `charged` in which no remote worker was ready, by cause.
        busy_time: Time for which the loop was busy and not blocked; None if items never wait for each other.
    """

    __slots__ = (
        "_batch",
        "_cause",
        "_delays",
        "_end_ns",
        "_loop_time",
        "_opened_ns",
        "_position",
        "_rest",
        "_timeline",
        "_waits",
        "_workerless",
        "blocked_computing_ns",
        "busy_time",
        "charged",
        "computing_ns",
        "left",
        "since_ns",
        "workerless_ns",
    )

    def __init__(self, batch: Progress | None = None) -> None:
        self._batch = batch
        self.charged = self._waits = _ZEROS
        self.since_ns = self.left = 0
        self._delays: DelayTotals | None = None
        self.blocked_computing_ns = self.computing_ns = 0
        self.workerless_ns: Sequence[int] = _NO_TIME
        self._workerless = False
        self._cause = self._rest = SLOTS
        self._opened_ns = 0
        self._end_ns = sys.maxsize
        self._loop_time = _NO_LOOP
        self._position = 0
        self.busy_time: BusyTime | None = None
        self._timeline: Timeline | None = None

    # -- called by the engine ------------------------------------------------------------------------------------------

    def open(self, now_ns: int) -> None:
        """Open the ledger at the start of the batch."""
        self.since_ns = self._opened_ns = now_ns

    def wait(self, cause: int, now_ns: int) -> None:
        """Record that a wait begins.

        Args:
            cause: `INPUT`, `PAUSED`, `RATE_LIMIT`, `BACKOFF` or `CONSUMER`.
            now_ns: The time.
        """
        if (waits := self._waits) is _ZEROS:
            waits = self._waits = _ZEROS[:]
        waits[cause] += 1
        if waits[cause] == 1:
            self._change(now_ns)

    def resume(self, cause: int, now_ns: int) -> None:
        """Record that a wait ends.

        Args:
            cause: The cause given to `wait`.
            now_ns: The time.
        """
        waits = self._waits
        waits[cause] -= 1
        if not waits[cause]:
            self._change(now_ns)

    def blocked(self, cause: int, began_ns: int, now_ns: int) -> None:
        """Record that the loop was blocked for a known cause until now.

        Args:
            cause: The cause, such as `INPUT` for an iterator that blocks.
            began_ns: When the block began; nothing has been recorded since.
            now_ns: The time.
        """
        self._charge(began_ns)
        self._add(cause, min(now_ns, self._end_ns))

    def input_exhausted(self, now_ns: int, since_ns: int, left: int, *, ended: bool) -> None:
        """Record that no item waits for a slot.

        Args:
            now_ns: The time.
            since_ns: When the last item that waited got its slot.
            left: Number of items that are running or queued.
            ended: True if any item has ended, so that a slot is empty.
        """
        if self._cause == SLOTS:
            self._charge(min(now_ns, since_ns))
            self._cause = SERVICE
        if self._rest == SLOTS:
            self.left = left
        self._rest = TAIL if ended else SERVICE
        self._change(now_ns)

    def input_available(self, now_ns: int) -> None:
        """Record that items wait for slots again, because another attempt is due."""
        self._rest = SLOTS
        self._change(now_ns)

    @property
    def full(self) -> bool:
        """True while no input is left and no slot is empty yet, so that `slot_vacated` would change the cause."""
        return self._rest == SERVICE

    def slot_vacated(self, now_ns: int) -> None:
        """Record that a slot has become empty for good."""
        if self._rest == SERVICE:
            self._rest = TAIL
            self._change(now_ns)

    def workers_changed(self, now_ns: int, *, ready: bool) -> None:
        """Record whether any of the workers that run the attempts in other processes is ready.

        Args:
            now_ns: The time.
            ready: False while all of them are starting.
        """
        if self._workerless is ready:
            self._charge(now_ns)
            self._workerless = not ready
            self.workerless_ns = [*self.workerless_ns]  # a list in place of the shared tuple

    def close(self, now_ns: int) -> None:
        """Charge the remaining time at the end of the batch. Later calls charge nothing."""
        self._charge(now_ns)
        self._end_ns = now_ns
        self._loop_time = _NO_LOOP
        self._batch = None  # breaks a reference cycle: the record holds this ledger

    # -- called by the loop's heartbeat --------------------------------------------------------------------------------

    def follow(self, loop_time: LoopTime, *, shared: bool = False) -> None:
        """Charge blocked and computing time from now on, as the intervals of the batch's loop say.

        Args:
            loop_time: The intervals.
            shared: True if items of the batch may wait for each other, so that the loop's busy time counts.
        """
        self._loop_time, self._position = loop_time, loop_time.position
        self.busy_time = BusyTime(loop_time) if shared else None

    def settle(self, now_ns: int) -> None:
        """Charge until `now_ns`, so that the loop's older intervals can be dropped."""
        self._charge(now_ns)

    # -- read from any thread ------------------------------------------------------------------------------------------

    @property
    def busy_ns(self) -> int:
        """Nanoseconds for which the loop was busy and not blocked; until the batch's end, those before a beat."""
        return 0 if self.busy_time is None else self.busy_time.ns

    def read(self, now_ns: int, latest_ns: int | None = None) -> dict[Cause, int]:
        """Return nanoseconds by cause until now; they sum to the time since the batch started.

        Args:
            now_ns: The time; for a batch that has ended, its end or later.
            latest_ns: When the latest item got its slot. If given, time whose cause is not certain yet is left out, so
                that no value is ever lower than in an earlier call.
        """
        charged, since_ns, cause, position = self.charged[:], self.since_ns, self._cause, self._position
        now_ns = min(now_ns, self._end_ns)
        if now_ns <= since_ns:  # all of it is charged, as of a batch that has ended
            return dict(zip(CAUSES, charged, strict=True))
        slots_ns, batch = now_ns, self._batch
        if cause == SLOTS and batch is not None and self._is_all_pulled(surely=latest_ns is None):
            slots_ns = batch.latest_ns if latest_ns is None else latest_ns
        for each, until_ns, _ in self._pieces(cause, position, since_ns, now_ns):
            passed_ns = max(0, until_ns - since_ns)
            held_ns = max(0, min(until_ns, slots_ns) - since_ns) if each == SLOTS else passed_ns
            charged[each] += held_ns
            if latest_ns is None:  # after the last pull of a list, every item runs or has ended
                charged[SERVICE] += passed_ns - held_ns
            since_ns = max(since_ns, until_ns)
        return dict(zip(CAUSES, charged, strict=True))

    def read_workerless(self, bound_ns: Mapping[Cause, int]) -> dict[Cause, int]:
        """Return the part of each cause in which items had slots and no worker was ready, in nanoseconds.

        Args:
            bound_ns: The latest return value of `read`.
        """
        parts: dict[Cause, int] = {}
        for cause in _HAVE_ITEMS:
            place = CAUSES.index(cause)
            uncharged_ns = bound_ns[cause] - self.charged[place] if self._workerless else 0
            parts[cause] = min(bound_ns[cause], self.workerless_ns[place] + max(0, uncharged_ns))
        return parts

    @property
    def known_delays(self) -> DelayTotals | None:
        """The delays, or None if there were none."""
        return self._delays

    @property
    def delays(self) -> DelayTotals:
        """Time for which items were ready while other code had the loop; made at the first access."""
        if self._delays is None:
            with _creating:  # the loop adds to it while another thread reads it
                self._delays = self._delays or DelayTotals()
        return self._delays

    @property
    def running_ns(self) -> int:
        """Nanoseconds charged to causes under which an item runs."""
        charged = self.charged
        return charged[SLOTS] + charged[SERVICE] + charged[TAIL] + charged[LOOP_BLOCKED]

    def timeline(self) -> Iterator[tuple[int, int, dict[Cause, int]]]:
        """Divide the batch's time into at most 512 pieces, of equal length except for the last.

        Yields:
            Begin and end of a piece in nanoseconds from the batch's start, and its nanoseconds by cause.
        """
        pieces = () if self._timeline is None else self._timeline.pieces()
        for begin_ns, end_ns, charged in pieces:
            yield begin_ns, end_ns, dict(zip(CAUSES, charged, strict=True))

    # -- internal ------------------------------------------------------------------------------------------------------

    def _change(self, now_ns: int) -> None:
        cause, waits = self._rest, self._waits
        if waits is not _ZEROS:
            cause = next((each for each in _BY_PRECEDENCE if waits[each]), cause)
        if cause != self._cause:
            self._charge(now_ns)
            self._cause = cause

    def _pieces(self, cause: int, position: int, since_ns: int, now_ns: int) -> Iterator[tuple[int, int, bool]]:
        """Divide a period into intervals of the given cause and intervals in which the loop was blocked or computing.

        Yields:
            The cause of an interval, its end, and True if the cause is that the loop's thread computed.
        """
        if now_ns <= since_ns:
            return
        loop_time = self._loop_time
        if loop_time.ended_ns <= since_ns and now_ns - loop_time.due_ns < LATE_NS:  # nearly always
            yield cause, now_ns, False
            return
        for kind, begin_ns, end_ns in loop_time.between(position, self._opened_ns, since_ns, now_ns):
            if kind != COMPUTING:
                yield cause, begin_ns, False
                yield LOOP_BLOCKED, end_ns, kind == BLOCKED_COMPUTING
            elif cause == SLOTS:  # more slots would only have waited for the same thread
                yield cause, begin_ns, False
                yield SERVICE, end_ns, True
        yield cause, now_ns, False

    def _charge(self, now_ns: int) -> None:
        """Charge the time until now to the current cause, except for intervals of a blocked or computing loop."""
        if now_ns > self._end_ns:  # no `min` here nor below: every batch charges three times, and a call costs more
            now_ns = self._end_ns
        since_ns = self.since_ns
        if now_ns <= since_ns:
            return
        last_ns = None  # end of the time in which inputs waited for slots, if a list has been pulled entirely
        if self._cause == SLOTS and self._batch is not None and self._is_all_pulled():
            last_ns = self._batch.latest_ns
        loop_time = self._loop_time
        if loop_time.ended_ns <= since_ns and now_ns - loop_time.due_ns < LATE_NS:  # nearly always: it is in time
            if last_ns is None or now_ns <= last_ns:
                self._add(self._cause, now_ns)
            else:
                self._add(SLOTS, last_ns)
                self._add(SERVICE, now_ns)
            return
        for cause, until_ns, computing in self._pieces(self._cause, self._position, self.since_ns, now_ns):
            passed_ns = until_ns - self.since_ns
            if cause == SLOTS and last_ns is not None:
                self._add(SLOTS, min(until_ns, last_ns))
                self._add(SERVICE, until_ns)
            else:
                self._add(cause, until_ns)
            if computing and cause == LOOP_BLOCKED:
                self.blocked_computing_ns += passed_ns
            elif computing:
                self.computing_ns += passed_ns
        if self._loop_time.ended_ns > self._opened_ns:
            self._position = self._loop_time.position_at(self._position, self.since_ns)

    def _is_all_pulled(self, *, surely: bool = True) -> bool:
        """Return whether all inputs are pulled, as is known for a list; with `surely=False`, whether they may be."""
        batch = self._batch
        if batch is None or batch.expected is None:
            return not surely
        return batch.pulled >= batch.expected and not (surely and batch.queued)  # a queued item may be due for a slot

    def _add(self, cause: int, now_ns: int) -> None:
        passed_ns = now_ns - self.since_ns
        if passed_ns <= 0:
            return
        if self._timeline is None:
            self._timeline, self.charged = Timeline(len(CAUSES), self._opened_ns), _ZEROS[:]
        self._timeline.add(cause, now_ns)
        # in this order, so that a thread that reads in between sees too little time and never too much
        self.since_ns = now_ns
        self.charged[cause] += passed_ns
        if self._workerless:
            self.workerless_ns[cause] += passed_ns  # type: ignore[index]  # a list by now

    def __repr__(self) -> str:
        shares = ", ".join(f"{CAUSES[i]} {ns / 1e9:.3f} s" for i, ns in enumerate(self.charged) if ns)
        return f"<Ledger: {shares or 'nothing charged'}>"
