"""RateLimiter: a batch's side of its rate limits; items take from all of them at once, in the order of asking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

from flowrt.policies.rate_limit import Clock, RateLimit, Reservation

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

    Raises:
        RuntimeError: A limit is in use on another event loop.
    """

    __slots__ = ("_clock", "_constant", "_only", "_turn", "limits", "settles", "waiting")

    def __init__(self, limits: RateLimit | Iterable[RateLimit], loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.limits = tuple(sorted(check_limits(limits), key=attrgetter("serial")))
        for limit in self.limits:
            limit.bind(loop, clock)
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
        now = self._clock()
        if self._only is not None:  # fast path of the common case: one limit and nothing to settle
            free = not self._only.line and self._only.window.take(prices[0], now)
            return _GRANTED if free else Ticket(False, prices)
        for limit, price in zip(self.limits, prices, strict=True):
            if not limit.free(price, now):
                return Ticket(False, prices)
        if self.settles:
            reservations = [
                Reservation(limit, limit.window.charge(price, now), price)
                for limit, price in zip(self.limits, prices, strict=True)
            ]
            return Ticket(True, prices, tuple(reservations))
        for limit, price in zip(self.limits, prices, strict=True):
            limit.window.charge(price, now)
        return _GRANTED

    async def wait(self, ticket: Ticket) -> None:
        """Wait until the ticket is granted; a cancelled caller is not charged."""
        self.waiting += 1
        entered: list[tuple[RateLimit, int]] = []
        try:
            async with self._turn:
                try:
                    for limit, price in zip(self.limits, ticket.prices, strict=True):
                        await limit.enter(price)
                        entered.append((limit, price))
                except BaseException:
                    for limit, price in entered:
                        limit.leave(price)
                    raise
                ticket.reservations = tuple([limit.start(price) for limit, price in entered])
                ticket.granted = True
        finally:
            self.waiting -= 1

    def settle(self, ticket: Ticket, metadata: Mapping[str, Any] | None) -> None:
        """Replace an attempt's estimated costs by those that its node reported; needed only if `settles` is true."""
        for reservation in ticket.reservations:
            actual = reservation.limit.reported(metadata)
            if actual is not None:
                reservation.limit.settle(reservation.charge, reservation.price, actual)
                reservation.price = actual

    def __repr__(self) -> str:
        return f"<RateLimiter: {len(self.limits)} limits, {self.waiting} waiting>"


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
