"""RateLimit: so much per second or minute, counted in requests, tokens or whatever an item costs."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from types import FunctionType
from typing import Any, Final

from flowrt._util.validation import check_number, number_or_none, seconds_to_ns
from flowrt.errors import FlowrtError
from flowrt.policies.rate_syntax import parse_rate
from flowrt.policies.sliding_window import UNIT, Charge, Window

__all__ = ["CostTooHighError", "RateLimit", "Reservation"]

Clock = Callable[[], int]

_SMALL_BURST: Final = 10  # a handful of items need not be spread over a minute
# whoever takes from several limits does so in one order, or two could block each other
_serials: Final = itertools.count()


class CostTooHighError(FlowrtError):
    """An item costs more than its rate limit admits within a whole window, so it can never run."""


class RateLimit:
    """A limit on what starts within a time: in no window of `per` seconds, wherever it begins, more than `rate`.

    Windows are half-open: what started exactly `per` seconds ago no longer counts. Within a window the flow is paced:
    at most `burst` comes at once. Services that speak of a limit per minute often enforce a share of it per second.

    Pass the same object to several processors on one event loop and they share the limit: in each, items go in the
    order of asking; between them, who asked first goes first. It outlives batches and loops, but one loop at a time.

    Args:
        rate: The most that starts within the window; a number above 0.
        per: The window's length, in seconds.
        burst: The most that starts at once; by default one second's share, at least 10. `burst=rate` admits all of
            a window at once, `burst=1` makes the flow even (to about 10 ms).
        cost: What an item costs: a number, or a function of the item, such as an estimate of its tokens.
        actual: Where a node reports what an item really cost: a key of its `NodeResult.metadata`, or a function of
            that metadata. Less than estimated is given back, more counts from then on; where it raises, the estimate
            stays. By default the key `"cost"` where `cost` is a function, and no report otherwise.

    Attributes:
        window: What was admitted, and when more may be.
        constant: What every item costs, in millionths, or None where a function says so.
        line: Those who wait, in the order of asking.
        reports: The actual cost is wanted.
        serial: Its place in the one order in which limits are taken from.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> requests = RateLimit(600, per=60)
        >>> tokens = RateLimit(90_000, per=60, cost=lambda item: len(item["text"]) // 4, actual="tokens")
    """

    __slots__ = (
        "_actual", "_clock", "_cost", "_loop", "_timer", "burst", "constant", "line", "per", "rate", "reports",
        "serial", "window",
    )  # fmt: skip

    def __init__(
        self,
        rate: float,
        per: float = 1.0,
        *,
        burst: float | None = None,
        cost: float | Callable[[Any], float] = 1,
        actual: str | Callable[[Mapping[str, Any]], Any] | None = None,
    ) -> None:
        self.rate = check_number("rate", rate, above=True)
        self.per = check_number("per", per, above=True, unit="of seconds")
        if burst is None:
            burst = min(self.rate, max(self.rate / self.per, _SMALL_BURST))
        self.burst = check_number("burst", burst, most=self.rate, above=True, unit="(rate at most)")
        if seconds_to_ns(self.per) < 1_000 or _units(self.rate) < 1:
            raise ValueError(f"rate={rate!r} per={per!r} s is too small: a window is at least 1 µs, a rate a millionth")
        self.window = Window(_units(self.rate), seconds_to_ns(self.per), _units(self.burst))
        self.constant: int | None = None
        self._cost: Callable[[Any], float] | None = None
        if callable(cost):
            self._cost = cost
        else:
            self.constant = _units(check_number("cost", cost))
            if self.constant > self.window.rate:
                raise ValueError(
                    f"cost={cost!r} never fits into rate={rate!r} per={per!r} s: "
                    f"make the window longer, as in RateLimit({cost!r}, per={self.per * cost / self.rate:g})"
                )
        if actual is not None and not isinstance(actual, str) and not callable(actual):
            raise ValueError(f"actual must be a metadata key, a function of the metadata, or None, not {actual!r}")
        self._actual = "cost" if actual is None and callable(cost) else actual
        self.reports = self._actual is not None
        self.serial = next(_serials)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: Clock = perf_counter_ns
        self.line: deque[tuple[asyncio.Future[None], int]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def parse(cls, text: str, **settings: Any) -> RateLimit:
        """A limit from text such as `100/s`, `600/min`, `2.5/s`, `90k/min` or `5/10s`.

        Args:
            text: Amount, slash, and a unit (ms, s, min, h, d), maybe with a count before it.
            settings: Further arguments of the RateLimit.

        Raises:
            ValueError: The text is none of that form.
        """
        rate, per = parse_rate(text)
        return cls(rate, per, **settings)

    def price(self, item: Any) -> int:
        """What an item costs, in millionths.

        Raises:
            CostTooHighError: It costs more than a whole window admits.
            ValueError: The cost function gave no number of at least 0.
            Exception: What the cost function raised.
        """
        if self._cost is None:
            return self.constant or 0
        return self._checked(self._cost(item))

    def reported(self, metadata: Mapping[str, Any] | None) -> int | None:
        """What an item really cost, in millionths, by its metadata; None where that does not say, or makes no sense."""
        where = self._actual
        if where is None or metadata is None:
            return None
        try:
            number = number_or_none(metadata.get(where) if isinstance(where, str) else where(metadata))
        except Exception:  # an attempt that raised has no metadata, and a function may take some for granted
            return None
        return None if number is None else _units(number)

    async def acquire(self, cost: float = 1) -> Reservation:
        """Wait until a cost may start, in the order of asking; a cancelled caller leaves nothing behind.

        Args:
            cost: What is about to start costs.

        Returns:
            What was admitted: `settle` it with the actual cost once that is known.

        Raises:
            CostTooHighError: It costs more than a whole window admits.
            ValueError: It is not a number of at least 0.
            RuntimeError: Another event loop is using the limit.
        """
        loop = asyncio.get_running_loop()
        self.bind(loop, self._clock if loop is self._loop else _clock_of(loop))
        price = self._checked(cost)
        await self.enter(price)
        return self.start(price)

    def bind(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        """Use the limit on this loop from now on.

        Args:
            loop: The running loop.
            clock: Monotonic nanoseconds.

        Raises:
            RuntimeError: Another running event loop is using it.
        """
        if self._loop is loop:
            return
        if self._loop is not None:
            if self._loop.is_running():
                raise RuntimeError(
                    f"{self!r} is in use on another event loop that is running: give each event loop a RateLimit of "
                    "its own, with its share of the rate"
                )
            self.line.clear()  # whoever waited there waits no more
            self._timer = None
            self.window.restart(clock())
        self._loop = loop
        self._clock = clock

    def free(self, price: int, now_ns: int) -> bool:
        """Whether a cost may start now, with nobody who asked before still waiting."""
        return not self.line and self.window.fits(price, now_ns)

    async def enter(self, price: int) -> None:
        """Wait in line until a cost is admitted; it is held until `start` or `leave`."""
        now = self._clock()
        if self.free(price, now):
            self.window.hold(price, now)
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (admitted, price)
        self.line.append(place)
        self._look()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():  # admitted in the very tick in which it was cancelled
                self.leave(price)
            elif place in self.line:
                self.line.remove(place)
                self._look()
            raise

    def start(self, price: int) -> Reservation:
        """What was held starts now."""
        reservation = Reservation(self, self.window.start(price, self._clock()), price)
        self._look()
        return reservation

    def leave(self, price: int) -> None:
        """What was held never starts."""
        self.window.let_go(price)
        self._look()

    def settle(self, charge: Charge, price: int, actual: int) -> None:
        """Correct what was charged, in millionths."""
        self.window.settle(charge, price, actual, self._clock())
        self._look()

    def _look(self) -> None:
        """Admit whoever may start now, in the order of asking, and look again when the next one may."""
        queue, window = self.line, self.window
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while queue:
            admitted, price = queue[0]
            if admitted.done():
                queue.popleft()
                continue
            now = self._clock()
            ready = window.ready_ns(price, now)
            if ready is None:
                return  # whoever is held will look when it starts or leaves
            if ready > now:
                self._timer = admitted.get_loop().call_later((ready - now) / 1e9, self._look)
                return
            queue.popleft()
            window.hold(price, now)
            admitted.set_result(None)

    def _checked(self, cost: Any) -> int:
        number = number_or_none(cost)
        if number is None:
            raise ValueError(f"the cost of an item must be a finite number of at least 0, not {cost!r}")
        price = _units(number)
        if price > self.window.rate:
            raise CostTooHighError(
                f"a cost of {number:g} can never fit into {self.rate:g} per {self.per:g} s: "
                "split the item, or raise the limit"
            )
        return price

    def __repr__(self) -> str:
        return (
            f"<RateLimit {self.rate:g} per {self.per:g} s: {(self.window.used + self.window.held) / UNIT:g} used, "
            f"{len(self.line)} waiting>"
        )


class Reservation:
    """What a limit has admitted.

    Args:
        limit: The limit.
        charge: Where it was written down.
        price: The cost that was reserved, in millionths.
    """

    __slots__ = ("charge", "limit", "price")

    def __init__(self, limit: RateLimit, charge: Charge, price: int) -> None:
        self.limit = limit
        self.charge = charge
        self.price = price

    def settle(self, actual: float) -> None:
        """Replace the estimate by what it really cost: less is given back, more counts from now on.

        Args:
            actual: A number of at least 0.

        Raises:
            ValueError: It is none.
        """
        price = _units(check_number("actual", actual))
        self.limit.settle(self.charge, self.price, price)
        self.price = price

    def __repr__(self) -> str:
        return f"<Reservation of {self.price / UNIT:g} in {self.limit!r}>"


def _units(cost: float) -> int:
    return cost * UNIT if cost.__class__ is int else round(cost * UNIT)


def _clock_of(loop: asyncio.AbstractEventLoop) -> Clock:
    # a loop whose class brings a time of its own (a test's virtual time) is asked; others share the system's clock
    time = type(loop).time
    if isinstance(time, FunctionType) and time is not asyncio.BaseEventLoop.time:
        return lambda: round(loop.time() * 1e9) + 1
    return perf_counter_ns
