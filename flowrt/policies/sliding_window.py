"""The core of a rate limit: what was admitted lately, and when more may be. It reads no clock and awaits nothing."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["UNIT", "Charge", "Window"]

UNIT: Final = 1_000_000
"""Costs are counted in whole millionths: sums of them stay exact, however many there are."""

_GRAINS: Final = 1024
_TIMER_NS: Final = 10_000_000  # event loops wake up a few milliseconds late, which must not cost throughput

Charge = list[int]
"""Costs admitted at about the same time: when the last of them was, their sum, when the first was."""


class Window:
    """Admits no more than `rate` within any `per_ns`, and no more than `burst` at once.

    Two rules hold together. The window: a log of what was admitted, so that in every half-open interval of length
    `per_ns`, wherever it starts, the sum is at most `rate`. The pace: a generic cell rate algorithm, under which
    costs may come up to `burst` ahead of an even flow. Charges within a thousandth of the window are kept as one that
    counts from the last of them, so the log is short, and the first rule holds all the same.

    Args:
        rate: The most within the window, in millionths.
        per_ns: The window's length, in nanoseconds.
        burst: The most at once, in millionths; no less than the share of 10 ms, finer than which no loop keeps time.

    Attributes:
        used: The sum of the charges in the log.
        held: Admitted, and yet to start: in every window until then.
    """

    __slots__ = ("_burst", "_grain_ns", "_log", "_next_ns", "_paced", "held", "per_ns", "rate", "used")

    def __init__(self, rate: int, per_ns: int, burst: int) -> None:
        self.rate = rate
        self.per_ns = per_ns
        self.used = 0
        self.held = 0
        self._burst = max(burst, rate * _TIMER_NS // per_ns)
        self._paced = self._burst < rate  # the window alone allows no more than a burst of all of it
        self._grain_ns = per_ns // _GRAINS
        self._log: deque[Charge] = deque()
        self._next_ns = 0  # when the next cost would come in an even flow

    def fits(self, cost: int, now_ns: int) -> bool:
        """Whether a cost may start now."""
        log = self._log
        horizon = now_ns - self.per_ns
        while log and log[0][0] <= horizon:
            self.used -= log.popleft()[1]
        if self.used + self.held + cost > self.rate:
            return False
        return not self._paced or self._next_ns - self._ahead_ns(cost) <= now_ns

    def take(self, cost: int, now_ns: int) -> Charge | None:
        """`charge` if it `fits`, in one go: it is called for every attempt."""
        log = self._log
        horizon = now_ns - self.per_ns
        while log and log[0][0] <= horizon:
            self.used -= log.popleft()[1]
        used = self.used + cost
        if used + self.held > self.rate:
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
        """When a cost may start if nothing else does before; None while that depends on when something held starts."""
        if self.fits(cost, now_ns):
            return now_ns
        ready = now_ns
        excess = self.used + self.held + cost - self.rate
        for charge in self._log:
            if excess <= 0:
                break
            excess -= charge[1]
            ready = charge[0] + self.per_ns
        if excess > 0:
            return None
        return max(ready, self._next_ns - self._ahead_ns(cost)) if self._paced else ready

    def charge(self, cost: int, now_ns: int) -> Charge:
        """A cost that fits starts now."""
        if self._paced:
            self._pace(cost, now_ns)
        return self._enter(cost, now_ns)

    def hold(self, cost: int, now_ns: int) -> None:
        """A cost that fits is admitted and starts later."""
        if self._paced:
            self._pace(cost, now_ns)
        self.held += cost

    def start(self, cost: int, now_ns: int) -> Charge:
        """What was held starts now."""
        self.held -= cost
        return self._enter(cost, now_ns)

    def let_go(self, cost: int) -> None:
        """What was held never starts."""
        self.held -= cost
        self._unpace(cost)

    def settle(self, charge: Charge, estimate: int, actual: int, now_ns: int) -> None:
        """Correct a charge: less gives the difference back, more counts from now on, beyond the rate if need be."""
        if actual > estimate:
            self._pace(actual - estimate, now_ns)
            self._enter(actual - estimate, now_ns)
        elif charge[0] > now_ns - self.per_ns:  # else it is out of the window, and maybe out of the log
            charge[1] -= estimate - actual
            self.used -= estimate - actual
            self._unpace(estimate - actual)

    def restart(self, now_ns: int) -> None:
        """Another loop takes over: nothing is held any more, and charges later than its clock are forgotten."""
        self.held = 0
        if self._log and self._log[-1][0] > now_ns:
            self._log.clear()
            self.used = 0
            self._next_ns = 0

    def _ahead_ns(self, cost: int) -> int:
        """How far ahead of an even flow a cost may come; one above the burst must not be ahead at all."""
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
