"""AdaptiveLimit: a concurrency limit that finds the point beyond which more at once only wait for each other."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import KW_ONLY, dataclass
from typing import Final, Literal

from flowrt._util.validation import check_count, check_number, seconds_to_ns

__all__ = ["AdaptiveLimit", "LimitChange", "LimitController", "Outcome", "Reason"]

Outcome = Literal["ok", "failed", "timed_out", "throttled"]
Reason = Literal["slow_start", "growth", "latency", "probe", "throttled", "timeouts", "set"]

_LEAST_SAMPLES: Final = 4
_CALM: Final = 0.4  # of the tolerated rise in latency: up to here the limit grows, beyond it holds
_HOLDS: Final = 10  # windows without a change before a look at the latency with less going on
_BELOW: Final = 0.9  # a cut goes this far below the estimated knee, where nothing queues
_BACKOFF: Final = 0.7  # what throttling and timeouts leave of the limit
_TIMEOUT_SHARE: Final = 0.1  # of attempts, above what is usual
_LEAST_ATTEMPTS: Final = 10  # as many as a share of timeouts is taken of at least
_LONGEST_PAUSE_NS: Final = 5_000_000_000


@dataclass(frozen=True, slots=True)
class LimitChange:
    """One change of a limit.

    Attributes:
        at_ns: When, by the batch's clock.
        old: The limit before.
        new: The limit from then on.
        reason: `slow_start` and `growth` raise it; `latency`, `throttled` and `timeouts` cut it; `probe` lowers it
            for a moment to see whether latency follows; `set` is a caller's own.
        latency_s: The mean latency that was seen, in seconds; 0 where the reason is another.
        baseline_s: The latency without queueing, as far as known, in seconds.
    """

    at_ns: int
    old: int
    new: int
    reason: Reason
    latency_s: float = 0.0
    baseline_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AdaptiveLimit:
    """Lets a batch find its concurrency by itself, between two bounds.

    It starts low and doubles while latency stays as it was, then grows slowly; it grows only while the slots are what
    holds the batch back. It cuts when the service throttles, when attempts time out, and when latency rises.

    Args:
        min: The lowest limit, and where it starts unless `start` is given.
        max: The highest limit.
        start: Where it starts.
        tolerance: How much the latency may rise over that without queueing before the limit is cut, as a factor.
        window: The least time to measure over before a change, in seconds.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> AdaptiveLimit(2, 100).begin().limit
        2
    """

    min: int = 1
    max: int = 100
    _: KW_ONLY
    start: int | None = None
    tolerance: float = 1.5
    window: float = 0.1

    def __post_init__(self) -> None:
        check_count("min", self.min)
        check_count("max", self.max)
        if self.max < self.min:
            raise ValueError(f"max must be at least min={self.min}, not {self.max}: AdaptiveLimit(min, max)")
        if self.start is not None and not self.min <= check_count("start", self.start) <= self.max:
            raise ValueError(f"start must be from min={self.min} to max={self.max}, not {self.start}")
        check_number("tolerance", self.tolerance, least=1, above=True)
        check_number("window", self.window, unit="of seconds")

    def begin(self) -> LimitController:
        """The state of one limit in force; what it has learned holds for later batches of the same node too."""
        return LimitController(self)


class LimitController:
    """Finds the limit from what attempts tell.

    After each change it lets one round of attempts pass, which began before, then measures a round: the mean latency,
    and whether all slots were in use. Three things happen:

    - GcThreshold: latency is near the baseline. The limit doubles (slow start) or grows by its square root.
    - Rising: the limit holds.
    - Above tolerance: latency is queueing. By Little's law `limit * baseline / latency` is where the queue begins; the
      limit falls to 0.9 of that. There nothing should queue, so the next round's latency is what the baseline is
      corrected by. That makes the baseline right itself: when it was too high, it shrinks with each cut; when the
      service itself became slower, latency does not fall with the limit, and the baseline rises to it.

    A limit that holds for long is lowered for one round in the same way, which keeps a stale baseline from holding it
    where it is. (A moving average for a baseline, as in Netflix's Gradient2, follows the queue that a batch always
    makes and lets the limit drift upwards; a minimum, as in Vegas, is too low for latencies that vary.)

    Attributes:
        limit: The limit in force.
        changes: The last 1,000 changes.
        changed: How many changes there were.
    """

    __slots__ = (
        "_baseline", "_bottom", "_ceiling", "_changed_ns", "_count", "_full", "_held", "_max", "_min", "_need",
        "_opened_ns", "_settling", "_slow_start", "_squares", "_timeouts", "_timing_out", "_tolerance", "_total",
        "_usual_timeouts", "_window_ns", "changed", "changes", "limit",
    )  # fmt: skip

    _opened_ns: int  # when the window began, 0 for not yet
    _need: int  # attempts to measure
    _count: int  # attempts measured that went well
    _full: int  # of these, with all slots in use
    _timeouts: int
    _total: float  # seconds
    _squares: float

    def __init__(self, policy: AdaptiveLimit) -> None:
        self._min = policy.min
        self._max = policy.max
        self._tolerance = policy.tolerance
        self._window_ns = seconds_to_ns(policy.window)
        self.limit = policy.min if policy.start is None else policy.start
        self.changes: deque[LimitChange] = deque(maxlen=1000)
        self.changed = 0
        self._baseline = 0.0  # seconds; 0 for not known yet
        self._slow_start = True
        self._bottom = False  # the limit was just lowered to where nothing should queue
        self._ceiling = 0  # the limit at which the service throttled last
        self._timing_out = False  # the limit was just cut because of timeouts
        self._usual_timeouts = 0.0  # their share when the limit is not to blame
        self._held = 0
        self._changed_ns = 0
        self._settling = self.limit if self.limit > 1 else 0
        self._open()

    @property
    def baseline_s(self) -> float:
        """The latency without queueing, in seconds; 0 while nothing is known."""
        return self._baseline

    def on_result(self, now_ns: int, latency_ns: int, inflight: int, outcome: Outcome = "ok") -> int:
        """Learn from an attempt that has ended.

        Args:
            now_ns: When it ended.
            latency_ns: How long it took.
            inflight: Attempts that were running, this one included.
            outcome: How it ended. What `failed` says nothing about the service's capacity.

        Returns:
            The limit from now on; where it differs, `changes[-1]` says why.
        """
        if outcome == "ok":
            if self._settling:
                self._settle(now_ns)
                return self.limit
            latency = latency_ns * 1e-9
            if not self._opened_ns:
                self._opened_ns = now_ns - latency_ns
            self._count += 1
            self._total += latency
            self._squares += latency * latency
            if inflight >= self.limit:
                self._full += 1
            if self._count >= self._need and now_ns - self._opened_ns >= self._window_ns:
                self._judge(now_ns)
        elif outcome != "failed" and now_ns - latency_ns >= self._changed_ns:
            # an attempt that began before the last change says nothing about the limit now in force
            if outcome == "throttled":
                self._back_off(now_ns, "throttled")
            elif self._settling:
                self._settle(now_ns)
            else:
                self._timeouts += 1
                seen = self._count + self._timeouts
                if self._timeouts > (self._usual_timeouts + _TIMEOUT_SHARE) * max(seen, self.limit, _LEAST_ATTEMPTS):
                    self._learn_timeouts(seen)
                    self._back_off(now_ns, "timeouts")
        return self.limit

    def set(self, now_ns: int, limit: int) -> int:
        """Put the limit where a caller wants it, within the bounds; it adapts from there."""
        self._slow_start = False
        self._change(now_ns, limit, "set")
        return self.limit

    def _settle(self, now_ns: int) -> None:
        """One more attempt of those that the last change does not speak of has ended."""
        self._settling -= 1
        if not self._settling:
            self._opened_ns = now_ns

    def _learn_timeouts(self, seen: int) -> None:
        """Timeouts that a lower limit does not cure are not of its making."""
        share = self._timeouts / seen
        if self._timing_out:
            self._usual_timeouts = (self._usual_timeouts + share) / 2
        elif share < self._usual_timeouts:
            self._usual_timeouts += 0.1 * (share - self._usual_timeouts)

    def _judge(self, now_ns: int) -> None:
        """A window is over: grow, hold or cut."""
        count = self._count
        mean = self._total / count
        variance = max(0.0, self._squares / count - mean * mean)
        surely = mean - math.sqrt(variance / count)  # few attempts of very different length prove little
        full = 2 * self._full >= count
        if not self._baseline:
            self._baseline = mean
        elif self._bottom:
            self._baseline = (self._baseline + mean) / 2
        elif mean < self._baseline:
            self._baseline += 0.3 * (mean - self._baseline)
        self._bottom = False
        baseline = self._baseline
        self._learn_timeouts(count + self._timeouts)
        self._timing_out = False
        self._open(now_ns)
        if surely > self._tolerance * baseline:
            self._lower(now_ns, mean, "latency")
        elif not full:
            return
        elif mean <= (1 + _CALM * (self._tolerance - 1)) * baseline:
            self._held = 0
            if self.limit < self._max:
                self._grow(now_ns, mean)
        else:
            self._slow_start = False
            self._held += 1
            if self._held >= _HOLDS:
                self._lower(now_ns, mean, "probe")

    def _grow(self, now_ns: int, latency: float) -> None:
        limit = self.limit
        if self._slow_start:
            self._change(now_ns, 2 * limit, "slow_start", latency)
            return
        step = max(1, math.isqrt(limit))
        if self._ceiling and limit + step > self._ceiling * _BELOW:
            step = 1  # near where the service throttled, one at a time
            if limit >= self._ceiling:
                self._ceiling = 0
        self._change(now_ns, limit + step, "growth", latency)

    def _lower(self, now_ns: int, latency: float, reason: Reason) -> None:
        """Go below the knee, where the next window measures the latency without queueing."""
        self._slow_start = False
        self._held = 0
        knee = self.limit * self._baseline / latency
        if self.limit == self._min:  # it cannot go lower: this is what the service takes with nothing in its queue
            self._baseline = (self._baseline + latency) / 2
            return
        self._bottom = True
        self._change(now_ns, max(math.floor(_BELOW * knee), self.limit // 2), reason, latency)

    def _back_off(self, now_ns: int, reason: Reason) -> None:
        # throttled attempts end early: without a pause they would cut to the bottom before the first cut has shown
        pause = min(max(self._window_ns, seconds_to_ns(self._baseline)), _LONGEST_PAUSE_NS)
        if self._changed_ns and now_ns - self._changed_ns < pause and not self._slow_start:
            return
        self._slow_start = False
        if reason == "throttled":
            self._ceiling = self.limit
        self._timing_out = reason == "timeouts"
        self._bottom = False
        self._change(now_ns, math.floor(_BACKOFF * self.limit), reason)

    def _change(self, now_ns: int, limit: int, reason: Reason, latency: float = 0.0) -> None:
        old = self.limit
        self.limit = new = min(max(limit, self._min), self._max)
        self._changed_ns = now_ns
        if new == old:
            self._open(now_ns)
            return
        self._settling = max(old, new)  # until what began before has ended
        self._open()
        self.changed += 1
        self.changes.append(LimitChange(now_ns, old, new, reason, latency, self._baseline))

    def _open(self, now_ns: int = 0) -> None:
        """Begin to measure anew, from the next result on where no time is given."""
        self._opened_ns = now_ns
        self._need = max(_LEAST_SAMPLES, self.limit)
        self._count = self._full = self._timeouts = 0
        self._total = self._squares = 0.0

    def __repr__(self) -> str:
        return f"<LimitController: {self.limit} of {self._min} to {self._max}, baseline {self._baseline:.3g} s>"
