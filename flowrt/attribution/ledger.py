"""The ledger: what held a batch back, at every instant of its wall time.

What binds a batch changes only where somebody begins or ends to wait: a worker for an input, an attempt for its rate
limit, a result for its consumer. Those are the slow paths, and there time is charged; an item that waits nowhere
costs nothing. Times are nanoseconds of the batch's monotonic clock, and sums are exact.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final, Literal, Protocol

from flowrt.attribution.stalls import DelayTotals

__all__ = [
    "BACKOFF",
    "CAUSES",
    "CONSUMER",
    "INPUT",
    "LATE_NS",
    "LOOP_BLOCKED",
    "RATE_LIMIT",
    "SERVICE",
    "SLOTS",
    "TAIL",
    "Cause",
    "Ledger",
    "Progress",
]

Cause = Literal["input", "slots", "rate_limit", "backoff", "loop_blocked", "consumer", "tail", "service"]

CAUSES: Final[tuple[Cause, ...]] = (
    "input",
    "slots",
    "rate_limit",
    "backoff",
    "loop_blocked",
    "consumer",
    "tail",
    "service",
)
"""Every cause: what each means is in `docs/explain.md`."""

INPUT, SLOTS, RATE_LIMIT, BACKOFF, LOOP_BLOCKED, CONSUMER, TAIL, SERVICE = range(len(CAUSES))

LATE_NS: Final = 25_000_000
"""A loop that is later than this with a beat is blocked; below, it is busy."""

_FIRST_WIDTH_NS: Final = 10_000_000
_MOST_BUCKETS: Final = 512


class Progress(Protocol):
    """What the ledger reads of a batch: how far its input has been pulled."""

    @property
    def expected(self) -> int | None:
        """Number of inputs, or None where it is not known."""

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
    """Charges each instant of one batch to one cause.

    Where several hold at once, the one that comes first counts: a blocked loop, then the consumer, a rate limit,
    backoff, the input. Where nobody waits for any of these, it is `slots` while inputs are left, `service` when every
    item left is running, and `tail` when some of the last ones are while slots stand empty.

    Args:
        batch: The batch's record; None for one whose length is not known and which pulls nothing.

    Attributes:
        due_ns: When the loop's next beat is due; what passes after that is `loop_blocked`.
        charged: What has been charged so far, by cause, in nanoseconds.
        since_ns: Until when that is.
        delays: Time for which items were ready and other code had the loop.
        left: How many items were on their way when the input was over.
        computing_ns: Of `service`, for how long the loop's thread was computing while items waited for slots.
    """

    __slots__ = (
        "_batch",
        "_buckets",
        "_cause",
        "_end_ns",
        "_flushed",
        "_full_ns",
        "_origin_ns",
        "_rest",
        "_waits",
        "_width_ns",
        "charged",
        "computing_ns",
        "delays",
        "due_ns",
        "left",
        "since_ns",
    )

    def __init__(self, batch: Progress | None = None) -> None:
        self._batch = batch
        self.charged = [0] * len(CAUSES)
        self.since_ns = 0
        self.due_ns = sys.maxsize
        self.delays = DelayTotals()
        self.left = 0
        self.computing_ns = 0
        self._cause = self._rest = SLOTS
        self._waits = [0] * len(CAUSES)
        self._origin_ns = 0
        self._end_ns = sys.maxsize
        self._width_ns = _FIRST_WIDTH_NS
        self._full_ns = 0  # the end of the timeline's bucket that is being filled
        self._flushed = self.charged.copy()
        self._buckets: list[tuple[int, ...]] = []

    # -- told by the engine ------------------------------------------------------------------------------------------

    def open(self, now_ns: int) -> None:
        """The batch has started."""
        self.since_ns = self._origin_ns = now_ns
        self._full_ns = now_ns + self._width_ns

    def wait(self, cause: int, now_ns: int) -> None:
        """Somebody begins to wait.

        Args:
            cause: `INPUT`, `RATE_LIMIT`, `BACKOFF` or `CONSUMER`.
            now_ns: The time.
        """
        waits = self._waits
        waits[cause] += 1
        if waits[cause] == 1:
            self._change(now_ns)

    def resume(self, cause: int, now_ns: int) -> None:
        """Somebody who waited goes on."""
        waits = self._waits
        waits[cause] -= 1
        if not waits[cause]:
            self._change(now_ns)

    def blocked(self, cause: int, began_ns: int, now_ns: int) -> None:
        """The loop stood still for a known cause, since a time after which nothing else has been told."""
        self._charge(began_ns)
        if now_ns > self.since_ns:
            self._add(cause, now_ns)

    def input_exhausted(self, now_ns: int, since_ns: int, left: int, *, ended: bool) -> None:
        """No item waits for a slot any more.

        Args:
            now_ns: The time.
            since_ns: Since when none has waited.
            left: How many items are on their way.
            ended: Whether any item has ended, so that a slot stands empty.
        """
        if self._cause == SLOTS:
            self._charge(min(now_ns, max(self.since_ns, since_ns)))
            self._cause = SERVICE
        if self._rest == SLOTS:
            self.left = left
        self._rest = TAIL if ended else SERVICE
        self._change(now_ns)

    def input_available(self, now_ns: int) -> None:
        """Items wait for slots again: some have come back for another attempt."""
        self._rest = SLOTS
        self._change(now_ns)

    def slot_vacated(self, now_ns: int) -> None:
        """A slot that had an item stands empty from now on."""
        if self._rest == SERVICE:
            self._rest = TAIL
            self._change(now_ns)

    def close(self, now_ns: int) -> None:
        """The batch has ended: charge what is left, and nothing after that."""
        self._charge(now_ns)
        self._end_ns = now_ns
        self.due_ns = sys.maxsize

    # -- told by the loop's heartbeat --------------------------------------------------------------------------------

    def beat(self, now_ns: int, latest_ns: int, *, computing: bool) -> None:
        """The loop has turned.

        Args:
            now_ns: The time.
            latest_ns: When the latest item got its slot.
            computing: The loop's thread was computing all the time, so that more slots would not have helped.
        """
        if self._cause == SLOTS:
            # what has passed since the latest item came is charged later: it may have been the last
            if computing:
                self._cause = SERVICE
                before_ns = self.charged[SERVICE]
                self._charge(now_ns)
                self.computing_ns += self.charged[SERVICE] - before_ns
                self._cause = SLOTS
            elif now_ns - self.due_ns >= LATE_NS:
                self._charge(now_ns)
            elif latest_ns > self.since_ns:
                self._charge(min(now_ns, latest_ns))
        else:
            self._charge(now_ns)

    # -- read from anywhere ------------------------------------------------------------------------------------------

    def read(self, now_ns: int, latest_ns: int | None = None) -> dict[Cause, int]:
        """Nanoseconds by cause until now; they sum to the time since the batch started.

        Args:
            now_ns: The time; that of its end, or later, for a batch that has ended and was closed.
            latest_ns: When the latest item got its slot. With it, what is not certain yet is left out, so that no
                value is ever lower than it was read before.
        """
        charged, since_ns, cause, due_ns = self.charged.copy(), self.since_ns, self._cause, self.due_ns
        now_ns = min(now_ns, self._end_ns)
        if now_ns - due_ns >= LATE_NS:
            begin_ns = max(due_ns, since_ns)
            charged[LOOP_BLOCKED] += max(0, now_ns - begin_ns)
            now_ns = begin_ns
        if latest_ns is not None and cause == SLOTS:
            now_ns = min(now_ns, latest_ns)
        charged[cause] += max(0, now_ns - since_ns)
        return dict(zip(CAUSES, charged, strict=True))

    def timeline(self) -> Iterator[tuple[int, int, dict[Cause, int]]]:
        """The ledger over time, in at most 512 pieces of equal length but for the last.

        Yields:
            Where a piece begins and ends, in nanoseconds from the batch's start, and its nanoseconds by cause.
        """
        width_ns, buckets = self._width_ns, self._buckets.copy()
        buckets.append(tuple([c - f for c, f in zip(self.charged, self._flushed, strict=True)]))
        for place, charged in enumerate(buckets):
            if any(charged):
                begin_ns = place * width_ns
                yield begin_ns, begin_ns + sum(charged), dict(zip(CAUSES, charged, strict=True))

    # -- within ------------------------------------------------------------------------------------------------------

    def _change(self, now_ns: int) -> None:
        waits = self._waits
        if waits[CONSUMER]:
            cause = CONSUMER
        elif waits[RATE_LIMIT]:
            cause = RATE_LIMIT
        elif waits[BACKOFF]:
            cause = BACKOFF
        elif waits[INPUT]:
            cause = INPUT
        else:
            cause = self._rest
        if cause != self._cause:
            self._charge(now_ns)
            self._cause = cause

    def _charge(self, now_ns: int) -> None:
        """Charge what has passed to what it was."""
        now_ns = min(now_ns, self._end_ns)
        if now_ns <= self.since_ns:
            return
        end_ns = now_ns
        if now_ns - self.due_ns >= LATE_NS:
            end_ns = max(self.since_ns, self.due_ns)
        cause = self._cause
        if cause == SLOTS and self._batch is not None and self._is_all_pulled():
            self._add(SLOTS, min(end_ns, max(self.since_ns, self._batch.latest_ns)))
            cause = SERVICE
        self._add(cause, end_ns)
        self._add(LOOP_BLOCKED, now_ns)

    def _is_all_pulled(self) -> bool:
        """Whether no further input can come, as is known of a list before anybody has asked it in vain."""
        batch = self._batch
        if batch is None or batch.expected is None:
            return False
        return batch.pulled >= batch.expected and not batch.queued  # what is queued may be due for a slot

    def _add(self, cause: int, now_ns: int) -> None:
        charged = self.charged
        while now_ns > self._full_ns:
            passed_ns, self.since_ns = self._full_ns - self.since_ns, self._full_ns
            charged[cause] += passed_ns
            if now_ns - self._origin_ns > _MOST_BUCKETS * self._width_ns:
                self._widen()
            else:
                self._flush()
        # in this order, so that another thread that reads in between sees too little and not too much
        passed_ns, self.since_ns = now_ns - self.since_ns, now_ns
        charged[cause] += passed_ns

    def _flush(self) -> None:
        """The timeline's bucket is full."""
        charged = self.charged
        self._buckets.append(tuple([c - f for c, f in zip(charged, self._flushed, strict=True)]))
        self._flushed = charged.copy()
        self._full_ns += self._width_ns

    def _widen(self) -> None:
        """Twice the width: every two buckets become one."""
        self._flush()
        buckets = self._buckets
        if len(buckets) % 2:  # the first half of a bucket that is being filled
            last = buckets.pop()
            self._flushed = [f - c for f, c in zip(self._flushed, last, strict=True)]
        pairs = zip(buckets[::2], buckets[1::2], strict=True)
        self._buckets = [tuple([a + b for a, b in zip(one, other, strict=True)]) for one, other in pairs]
        self._width_ns *= 2
        self._full_ns = self._origin_ns + (len(self._buckets) + 1) * self._width_ns

    def __repr__(self) -> str:
        shares = ", ".join(f"{CAUSES[i]} {ns / 1e9:.3f} s" for i, ns in enumerate(self.charged) if ns)
        return f"<Ledger: {shares or 'nothing charged'}>"
