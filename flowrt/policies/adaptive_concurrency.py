"""AdaptiveLimit: a concurrency limit that searches for the knee, beyond which more concurrency only adds queueing."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import KW_ONLY, dataclass
from typing import Final, Literal

from flowrt._util.validation import check_count, check_number, seconds_to_ns

__all__ = ["AdaptiveLimit", "LimitChange", "LimitController", "Outcome", "Reason"]

Outcome = Literal["ok", "failed", "timed_out", "throttled"]
Reason = Literal["slow_start", "growth", "latency", "probe", "throttled", "timeouts", "set"]

_LEAST_SAMPLES: Final = 4
_GROWTH_SHARE: Final = 0.4  # of the tolerated rise in latency: below it the limit grows, above it holds
_HOLDS: Final = 10  # windows without a change before a probe measures the latency at a lower limit
_BELOW_KNEE: Final = 0.9  # a cut lands at this factor of the estimated knee, where nothing should queue
_BACKOFF: Final = 0.7  # factor for the limit after throttling or timeouts
_TIMEOUT_SHARE: Final = 0.1  # of attempts, in excess of the usual share
_LEAST_ATTEMPTS: Final = 10  # smallest denominator of the share of timeouts
_LONGEST_PAUSE_NS: Final = 5_000_000_000


@dataclass(frozen=True, slots=True)
class LimitChange:
    """One change of a limit.

    Attributes:
        at_ns: Time of the change, in nanoseconds on the batch's clock.
        old: The limit before the change.
        new: The limit after the change.
        reason: `slow_start` and `growth` raise the limit; `latency`, `throttled` and `timeouts` cut it; `probe` lowers
            it briefly to see whether latency falls with it; `set` is a change by the caller.
        latency_s: The mean latency of the window, in seconds; 0 for reasons other than latency.
        baseline_s: The estimated latency without queueing, in seconds; 0 while unknown.
    """

    at_ns: int
    old: int
    new: int
    reason: Reason
    latency_s: float = 0.0
    baseline_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AdaptiveLimit:
    """Concurrency limit that a batch adapts between two bounds.

    The limit starts low, doubles while latency stays flat, then grows slowly. It grows only while all slots are in
    use. It is cut when the service throttles, when attempts time out, and when latency rises.

    Args:
        min: The lowest limit, and the first one unless `start` is given.
        max: The highest limit.
        start: The first limit.
        tolerance: How far latency may rise above the latency without queueing before the limit is cut, as a factor.
        window: Shortest time to measure before a change, in seconds.

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
        """Create the controller of one limit; its estimates also hold for later batches of the same node."""
        return LimitController(self)


class LimitController:
    """Adapts a limit to the latency and the outcomes of attempts.

    After each change the controller ignores one round of attempts, which began under the old limit. Then it measures a
    round: the mean latency, and whether all slots were in use. There are three cases:

    - Near the baseline: the limit doubles (slow start) or grows by its square root.
    - Between the baseline and the tolerance: the limit holds.
    - Above the tolerance: attempts are queueing. By Little's law the queue begins at `limit * baseline / latency`; the
      limit falls to 0.9 of that, where nothing should queue. The next round's latency then corrects the baseline: if
      the baseline was too high, it shrinks with each cut; if the service itself became slower, latency does not fall
      with the limit, and the baseline rises to it.

    A limit that holds for long is lowered for one round in the same way, so that a stale baseline cannot pin it. (A
    moving average as baseline, as in Netflix's Gradient2, follows the queue that a batch always builds and lets the
    limit drift upwards; a minimum, as in Vegas, is too low for latencies that vary.)

    Batches on the loops of several threads may share a controller.

    Attributes:
        limit: The current limit.
        changes: The last 1,000 changes.
        changed: Number of changes so far.
    """

    __slots__ = (
        "_baseline", "_below_knee", "_ceiling", "_changed_ns", "_count", "_full", "_holds", "_lock", "_max", "_min",
        "_need", "_opened_ns", "_skip", "_slow_start", "_squares", "_timeouts", "_timing_out", "_tolerance", "_total",
        "_usual_timeouts", "_window_ns", "changed", "changes", "limit",
    )  # fmt: skip

    _opened_ns: int  # start of the window, 0 if it has not started
    _need: int  # attempts to measure
    _count: int  # successful attempts measured
    _full: int  # of these, with all slots in use
    _timeouts: int
    _total: float  # seconds
    _squares: float

    def __init__(self, policy: AdaptiveLimit) -> None:
        self._lock = threading.Lock()
        self._min = policy.min
        self._max = policy.max
        self._tolerance = policy.tolerance
        self._window_ns = seconds_to_ns(policy.window)
        self.limit = policy.min if policy.start is None else policy.start
        self.changes: deque[LimitChange] = deque(maxlen=1000)
        self.changed = 0
        self._baseline = 0.0  # seconds; 0 while unknown
        self._slow_start = True
        self._below_knee = False  # the limit was just lowered to where nothing should queue
        self._ceiling = 0  # the limit at which the service throttled last
        self._timing_out = False  # the limit was just cut because of timeouts
        self._usual_timeouts = 0.0  # share of timeouts that a lower limit does not cure
        self._holds = 0  # windows in a row that left the limit unchanged
        self._changed_ns = 0
        self._skip = self.limit if self.limit > 1 else 0  # attempts to ignore: they began under another limit
        self._open_window()

    @property
    def baseline_s(self) -> float:
        """The estimated latency without queueing, in seconds; 0 while unknown."""
        return self._baseline

    def on_result(self, now_ns: int, latency_ns: int, inflight: int, outcome: Outcome = "ok") -> int:
        """Record an attempt that has ended, and adapt the limit.

        Args:
            now_ns: End of the attempt, in nanoseconds.
            latency_ns: Duration of the attempt, in nanoseconds.
            inflight: Number of running attempts, this one included.
            outcome: How it ended. A `failed` attempt says nothing about the service's capacity and is ignored.

        Returns:
            The limit from now on; after a change, `changes[-1]` holds the reason.
        """
        counted = outcome == "ok" and self._opened_ns and not self._skip
        if counted:  # the fast path needs no lock: it makes no call, and the interpreter switches threads at calls only
            latency = latency_ns * 1e-9
            self._count += 1
            self._total += latency
            self._squares += latency * latency
            if inflight >= self.limit:
                self._full += 1
            if self._count < self._need or now_ns - self._opened_ns < self._window_ns:
                return self.limit
        with self._lock:
            if counted:
                if self._count >= self._need:  # otherwise another thread has closed the window
                    self._close_window(now_ns)
            elif outcome == "ok":
                if self._skip:
                    self._skip_one(now_ns)
                    return self.limit
                self._opened_ns = self._opened_ns or now_ns - latency_ns or 1
            elif outcome != "failed" and now_ns - latency_ns >= self._changed_ns:
                # an attempt that began before the last change says nothing about the current limit
                if outcome == "throttled":
                    self._back_off(now_ns, "throttled")
                else:
                    self._count_timeout(now_ns)
        if outcome == "ok" and not counted:  # it was the first result of a window, which is open now
            return self.on_result(now_ns, latency_ns, inflight)
        return self.limit

    def set(self, now_ns: int, limit: int) -> int:
        """Set the limit, clamped to the bounds; it adapts from there.

        Args:
            now_ns: The current time, in nanoseconds.
            limit: The wanted limit.

        Returns:
            The limit from now on.
        """
        with self._lock:
            self._slow_start = False
            self._change(now_ns, limit, "set")
            return self.limit

    def _count_timeout(self, now_ns: int) -> None:
        if self._skip:
            self._skip_one(now_ns)
            return
        self._timeouts += 1
        seen = self._count + self._timeouts
        if self._timeouts > (self._usual_timeouts + _TIMEOUT_SHARE) * max(seen, self.limit, _LEAST_ATTEMPTS):
            self._learn_timeouts(seen)
            self._back_off(now_ns, "timeouts")

    def _skip_one(self, now_ns: int) -> None:
        """Ignore an attempt that began under another limit; the last of them opens the window."""
        self._skip -= 1
        if not self._skip:
            self._opened_ns = now_ns

    def _learn_timeouts(self, seen: int) -> None:
        """Update the usual share of timeouts: timeouts that persist at a lower limit are not caused by the limit."""
        share = self._timeouts / seen
        if self._timing_out:
            self._usual_timeouts = (self._usual_timeouts + share) / 2
        elif share < self._usual_timeouts:
            self._usual_timeouts += 0.1 * (share - self._usual_timeouts)

    def _close_window(self, now_ns: int) -> None:
        """Grow, hold or cut by the window's measurements."""
        count = self._count
        mean = self._total / count
        variance = max(0.0, self._squares / count - mean * mean)
        lower_bound = mean - math.sqrt(variance / count)  # a few attempts of very different length prove little
        full = 2 * self._full >= count
        if not self._baseline:
            self._baseline = mean
        elif self._below_knee:
            self._baseline = (self._baseline + mean) / 2
        elif mean < self._baseline:
            self._baseline += 0.3 * (mean - self._baseline)
        self._below_knee = False
        baseline = self._baseline
        self._learn_timeouts(count + self._timeouts)
        self._timing_out = False
        self._open_window(now_ns)
        if lower_bound > self._tolerance * baseline:
            self._lower(now_ns, mean, "latency")
        elif not full:
            return
        elif mean <= (1 + _GROWTH_SHARE * (self._tolerance - 1)) * baseline:
            self._holds = 0
            if self.limit < self._max:
                self._grow(now_ns, mean)
        else:
            self._slow_start = False
            self._holds += 1
            if self._holds >= _HOLDS:
                self._lower(now_ns, mean, "probe")

    def _grow(self, now_ns: int, latency: float) -> None:
        limit = self.limit
        if self._slow_start:
            self._change(now_ns, 2 * limit, "slow_start", latency)
            return
        step = max(1, math.isqrt(limit))
        if self._ceiling and limit + step > self._ceiling * _BELOW_KNEE:
            step = 1  # approach the limit that was throttled in single steps
            if limit >= self._ceiling:
                self._ceiling = 0
        self._change(now_ns, limit + step, "growth", latency)

    def _lower(self, now_ns: int, latency: float, reason: Reason) -> None:
        """Cut the limit below the knee, so that the next window measures the latency without queueing."""
        self._slow_start = False
        self._holds = 0
        knee = self.limit * self._baseline / latency
        if self.limit == self._min:  # no lower limit is allowed: take this latency for the one without queueing
            self._baseline = (self._baseline + latency) / 2
            return
        self._below_knee = True
        self._change(now_ns, max(math.floor(_BELOW_KNEE * knee), self.limit // 2), reason, latency)

    def _back_off(self, now_ns: int, reason: Reason) -> None:
        # throttled attempts end early: without a pause they would cut to the minimum before the first cut takes effect
        pause = min(max(self._window_ns, seconds_to_ns(self._baseline)), _LONGEST_PAUSE_NS)
        if self._changed_ns and now_ns - self._changed_ns < pause and not self._slow_start:
            return
        self._slow_start = False
        if reason == "throttled":
            self._ceiling = self.limit
        self._timing_out = reason == "timeouts"
        self._below_knee = False
        self._change(now_ns, math.floor(_BACKOFF * self.limit), reason)

    def _change(self, now_ns: int, limit: int, reason: Reason, latency: float = 0.0) -> None:
        old = self.limit
        self.limit = new = min(max(limit, self._min), self._max)
        self._changed_ns = now_ns
        if new == old:
            self._open_window(now_ns)
            return
        self._skip = max(old, new)  # attempts that began before the change
        self._open_window()
        self.changed += 1
        self.changes.append(LimitChange(now_ns, old, new, reason, latency, self._baseline))

    def _open_window(self, now_ns: int = 0) -> None:
        """Start a new window, at the next result if no time is given."""
        self._opened_ns = now_ns
        self._need = max(_LEAST_SAMPLES, self.limit)
        self._count = self._full = self._timeouts = 0
        self._total = self._squares = 0.0

    def __repr__(self) -> str:
        return f"<LimitController: {self.limit} of {self._min} to {self._max}, baseline {self._baseline:.3g} s>"
