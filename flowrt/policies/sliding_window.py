"""Sliding window: the arithmetic of a rate limit. It reads no clock and awaits nothing."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["UNIT", "Charge", "Window"]

UNIT: Final = 1_000_000
"""Costs are whole millionths, so that sums stay exact."""

_GRAINS: Final = 1024
_TIMER_NS: Final = 10_000_000  # event loops wake up a few milliseconds late, which must not cost throughput

Charge = list[int]
"""Entry of the log, costs admitted at about the same time: time of the last one, their sum, time of the first one."""


class Window:
    """Admits no more than `rate` within any `per_ns`, and no more than `burst` at once.

    Two rules apply at once. The window: a log of admitted costs, so that in every half-open interval of length
    `per_ns`, wherever it starts, the sum is at most `rate`. The pace: a generic cell rate algorithm, under which costs
    may start up to `burst` ahead of an even flow. Charges within a thousandth of the window share a log entry, which
    counts from the last of them: that keeps the log short and the first rule exact.

    Args:
        rate: The most within the window, in millionths.
        per_ns: The window's length, in nanoseconds.
        burst: The most at once, in millionths; raised to the share of 10 ms, the precision of event loop timers.

    Attributes:
        used: The sum of the charges in the log.
        reserved: Costs that were admitted and have not started; they count in every window until they start.
    """

    __slots__ = ("_burst", "_grain_ns", "_log", "_next_ns", "_paced", "per_ns", "rate", "reserved", "used")

    def __init__(self, rate: int, per_ns: int, burst: int) -> None:
        self.rate = rate
        self.per_ns = per_ns
        self.used = 0
        self.reserved = 0
        self._burst = max(burst, rate * _TIMER_NS // per_ns)
        self._paced = self._burst < rate  # a burst of a whole window needs no pacing: the first rule bounds it
        self._grain_ns = per_ns // _GRAINS
        self._log: deque[Charge] = deque()
        self._next_ns = 0  # start of the next cost in an even flow

    def fits(self, cost: int, now_ns: int) -> bool:
        """Return True if a cost may start now."""
        log = self._log
        horizon = now_ns - self.per_ns
        while log and log[0][0] <= horizon:
            self.used -= log.popleft()[1]
        if self.used + self.reserved + cost > self.rate:
            return False
        return not self._paced or self._next_ns - self._ahead_ns(cost) <= now_ns

    def take(self, cost: int, now_ns: int) -> Charge | None:
        """Charge a cost if it fits, else return None; `fits` and `charge` in one, because every attempt calls it."""
        log = self._log
        horizon = now_ns - self.per_ns
        while log and log[0][0] <= horizon:
            self.used -= log.popleft()[1]
        used = self.used + cost
        if used + self.reserved > self.rate:
            return None
        if self._paced:
            if self._next_ns - self._ahead_ns(cost) > now_ns:
                return None
            self._pace(cost, now_ns)
        self.used = used
        if log and now_ns - (charge := log[-1])[2] < self._grain_ns:
            charge[0] = now_ns
            charge[1] += cost
        else:
            log.append(charge := [now_ns, cost, now_ns])
        return charge

    def ready_ns(self, cost: int, now_ns: int) -> int | None:
        """Return when a cost may start if no other starts before; None while that depends on a reserved cost."""
        if self.fits(cost, now_ns):
            return now_ns
        ready = now_ns
        excess = self.used + self.reserved + cost - self.rate
        for charge in self._log:
            if excess <= 0:
                break
            excess -= charge[1]
            ready = charge[0] + self.per_ns
        if excess > 0:
            return None
        return max(ready, self._next_ns - self._ahead_ns(cost)) if self._paced else ready

    def charge(self, cost: int, now_ns: int) -> Charge:
        """Charge a cost that fits, from now on."""
        if self._paced:
            self._pace(cost, now_ns)
        return self._enter(cost, now_ns)

    def reserve(self, cost: int, now_ns: int) -> None:
        """Admit a cost that fits and starts later."""
        if self._paced:
            self._pace(cost, now_ns)
        self.reserved += cost

    def start(self, cost: int, now_ns: int) -> Charge:
        """Charge a reserved cost, from now on."""
        self.reserved -= cost
        return self._enter(cost, now_ns)

    def release(self, cost: int) -> None:
        """Give back a reserved cost that will not start."""
        self.reserved -= cost
        self._unpace(cost)

    def settle(self, charge: Charge, estimate: int, actual: int, now_ns: int) -> None:
        """Correct a charge: give back a surplus, or charge the rest from now on, beyond the rate if need be."""
        if actual > estimate:
            self._pace(actual - estimate, now_ns)
            self._enter(actual - estimate, now_ns)
        elif charge[0] > now_ns - self.per_ns:  # an older charge has left the window, and perhaps the log
            charge[1] -= estimate - actual
            self.used -= estimate - actual
            self._unpace(estimate - actual)

    def restart(self, now_ns: int) -> None:
        """Take over for another loop: drop charges later than that loop's time.

        Args:
            now_ns: The loop's time.
        """
        if self._log and self._log[-1][0] > now_ns:
            self._log.clear()
            self.used = 0
            self._next_ns = 0

    def _ahead_ns(self, cost: int) -> int:
        """Return how far ahead of an even flow a cost may start; a cost above the burst may not be ahead at all."""
        return (self._burst - cost) * self.per_ns // self.rate if cost < self._burst else 0

    def _pace(self, cost: int, now_ns: int) -> None:
        self._next_ns = max(self._next_ns, now_ns) + cost * self.per_ns // self.rate

    def _unpace(self, cost: int) -> None:
        self._next_ns -= cost * self.per_ns // self.rate

    def _enter(self, cost: int, now_ns: int) -> Charge:
        self.used += cost
        log = self._log
        if log and now_ns - log[-1][2] < self._grain_ns:
            charge = log[-1]
            charge[0] = now_ns
            charge[1] += cost
        else:
            charge = [now_ns, cost, now_ns]
            log.append(charge)
        return charge

    def __len__(self) -> int:
        return len(self._log)
