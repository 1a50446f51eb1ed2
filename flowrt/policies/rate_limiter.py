"""RateLimiter: a batch's side of its rate limits; items take from all of them at once, in the order of asking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

from flowrt._util.clock import Clock
from flowrt.policies.rate_limit import RateLimit, Reservation
from flowrt.policies.sliding_window import Charge
from flowrt.policies.waiting_line import WaitingLine

__all__ = ["RateLimiter", "Ticket", "check_limits"]


class Ticket:
    """The limits' answer for one attempt.

    Attributes:
        granted: True if the attempt may start; else `await limiter.wait(ticket)` first.
        prices: Its cost in each limit, in millionths.
        reservations: The charged costs, if they remain to be settled.
    """

    __slots__ = ("granted", "prices", "reservations")

    def __init__(self, granted: bool, prices: tuple[int, ...], reservations: tuple[Reservation, ...] = ()) -> None:
        self.granted = granted
        self.prices = prices
        self.reservations = reservations


_GRANTED: Final = Ticket(True, ())


class RateLimiter:
    """One batch's access to one or several rate limits.

    An item takes from all limits at once or waits, and later items wait behind it. Only a batch's first waiter stands
    in line at the limits themselves. So batches that share a limit take turns, and a batch that waits for one limit
    reserves at most one item's cost in the others.

    Args:
        limits: One limit or several.
        loop: The running loop.
        clock: The batch's clock.

    Attributes:
        settles: True if a limit needs the items' actual costs.
        waiting: Number of waiting items.
    """

    __slots__ = ("_clock", "_constant", "_only", "_turn", "limits", "settles", "waiting")

    def __init__(self, limits: RateLimit | Iterable[RateLimit], loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.limits = tuple(sorted(check_limits(limits), key=attrgetter("serial")))
        for limit in self.limits:
            limit.line.bind(loop, clock)
        self.settles = any(limit.reports for limit in self.limits)
        self.waiting = 0
        constant = tuple([limit.constant for limit in self.limits if limit.constant is not None])
        self._constant = constant if len(constant) == len(self.limits) else None
        self._only = self.limits[0] if len(self.limits) == 1 and not self.settles else None
        self._clock = clock
        self._turn = asyncio.Lock()

    def take(self, item: Any) -> Ticket:
        """Admit an attempt now, if all limits allow it.

        Args:
            item: The item's input, for the cost functions.

        Raises:
            CostTooHighError: The item costs more than a limit ever admits.
            ValueError: A cost function returned something other than a number of at least 0.
            Exception: Any exception of a cost function.
        """
        prices = self._constant
        if prices is None:
            prices = tuple([limit.price(item) for limit in self.limits])
        if self.waiting:
            return Ticket(False, prices)
        if (only := self._only) is not None:  # fast path of the common case: one limit and nothing to settle
            line = only.line
            with line.lock:
                free = not line.waiting and only.window.take(prices[0], self._clock())
            return _GRANTED if free else Ticket(False, prices)
        for limit in self.limits:  # all of them, in their order: another loop may take in between
            limit.line.lock.acquire()
        try:
            return self._take_all(prices, self._clock())
        finally:
            for limit in self.limits:
                limit.line.lock.release()

    def _take_all(self, prices: tuple[int, ...], now_ns: int) -> Ticket:
        for limit, price in zip(self.limits, prices, strict=True):
            if not limit.line.free(price, now_ns):
                return Ticket(False, prices)
        charges = [limit.window.charge(price, now_ns) for limit, price in zip(self.limits, prices, strict=True)]
        if not self.settles:
            return _GRANTED
        return Ticket(True, prices, tuple(map(Reservation, self.limits, charges, prices)))

    async def wait(self, ticket: Ticket) -> None:
        """Wait until the ticket is granted; a cancelled caller is not charged."""
        self.waiting += 1
        try:
            async with self._turn:
                charges = await self._enter_all(ticket.prices)
                ticket.reservations = tuple(map(Reservation, self.limits, charges, ticket.prices))
                ticket.granted = True
        finally:
            self.waiting -= 1

    async def _enter_all(self, prices: tuple[int, ...]) -> list[Charge]:
        while True:
            entered: list[tuple[WaitingLine, int, int]] = []
            try:
                for limit, price in zip(self.limits, prices, strict=True):
                    entered.append((limit.line, price, await limit.line.enter(price)))
                if all(line.holds(turn) for line, _, turn in entered):
                    return [line.start(price) for line, price, _ in entered]
            except BaseException:
                _leave_all(entered)
                raise
            _leave_all(entered)  # this loop was paused meanwhile, and its reservations were taken back

    def settle(self, ticket: Ticket, metadata: Mapping[str, Any] | None) -> None:
        """Replace an attempt's estimated costs by those that its node reported; needed only if `settles` is true."""
        for reservation in ticket.reservations:
            actual = reservation.limit.reported(metadata)
            if actual is not None:
                reservation.limit.line.settle(reservation.charge, reservation.price, actual)
                reservation.price = actual

    def __repr__(self) -> str:
        return f"<RateLimiter: {len(self.limits)} limits, {self.waiting} waiting>"


def _leave_all(entered: list[tuple[WaitingLine, int, int]]) -> None:
    for line, price, turn in entered:
        line.leave(price, turn)


def check_limits(limits: Any) -> tuple[RateLimit, ...]:
    """Return one or several rate limits as a tuple.

    Raises:
        ValueError: `limits` is anything else, or holds the same limit twice.
    """
    several = (limits,) if isinstance(limits, RateLimit) else limits
    found = tuple(several) if isinstance(several, Iterable) and not isinstance(several, (str, bytes)) else ()
    if not found or not all(isinstance(limit, RateLimit) for limit in found):
        raise ValueError(f"rate_limit must be a RateLimit(...) or several, not {limits!r}")
    if len(set(map(id, found))) < len(found):
        raise ValueError(f"rate_limit holds the same limit twice, so an item would pay it twice: {limits!r}")
    return found
