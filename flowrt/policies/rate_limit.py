"""RateLimit: a limit per second or minute, in requests, tokens or any other cost of an item."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final

from flowrt._util.validation import check_number, number_or_none, seconds_to_ns
from flowrt.errors import FlowrtError
from flowrt.policies.rate_syntax import parse_rate
from flowrt.policies.sliding_window import UNIT, Charge, Window
from flowrt.policies.waiting_line import WaitingLine

__all__ = ["CostTooHighError", "RateLimit", "Reservation"]

_WHOLE: Final = 1e16  # larger floats are whole numbers, and may overflow when they are multiplied
_SMALL_BURST: Final = 10  # a few items need no pacing over a minute
# callers that take from several limits take in one order, or two of them could block each other
_serials: Final = itertools.count()


class CostTooHighError(FlowrtError):
    """An item costs more than its rate limit admits in a whole window, so it can never run."""


class RateLimit:
    """Rate limit over a sliding window: no window of `per` seconds, wherever it begins, starts more than `rate`.

    Windows are half-open: a start exactly `per` seconds ago no longer counts. Within a window the flow is paced: at
    most `burst` starts at once. Services with a limit per minute often enforce a share of it per second.

    Processors that share a RateLimit object share the limit, on one event loop and on loops in several threads: each
    processor's items start in the order of asking, and between processors the first to ask goes first. A RateLimit
    outlives batches and loops. Items of a loop that is paused keep their places, and others pass them.

    Args:
        rate: The most that starts within the window; a number above 0.
        per: The window's length, in seconds.
        burst: The most that starts at once; by default one second's share, at least 10. `burst=rate` admits all of
            a window at once, `burst=1` makes the flow even (to about 10 ms).
        cost: The cost of an item: a number, or a function of the item, such as an estimate of its tokens.
        actual: Where a node reports the actual cost of an item: a key of its `NodeResult.metadata`, or a function of
            that metadata. The limit gives back a surplus and charges a missing cost from then on; if the
            function raises, the estimate stays. By default the key `"cost"` if `cost` is a function, else no report.

    Attributes:
        window: The log of admitted costs.
        line: The callers that wait, in the order of asking.
        constant: The cost of every item, in millionths, or None if a function computes it.
        reports: True if nodes report actual costs.
        serial: Position in the global order in which callers take from several limits.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> requests = RateLimit(600, per=60)
        >>> tokens = RateLimit(90_000, per=60, cost=lambda item: len(item["text"]) // 4, actual="tokens")
    """

    __slots__ = ("_actual", "_cost", "burst", "constant", "line", "per", "rate", "reports", "serial", "window")

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
        self.line = WaitingLine(self.window)
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

    @classmethod
    def parse(cls, text: str, **settings: Any) -> RateLimit:
        """Make a limit from text such as `100/s`, `600/min`, `2.5/s`, `90k/min` or `5/10s`.

        Args:
            text: Amount, slash, and a unit (ms, s, min, h, d), optionally with a count before the unit.
            settings: Further arguments of the RateLimit.

        Raises:
            ValueError: The text does not have that form.
        """
        rate, per = parse_rate(text)
        return cls(rate, per, **settings)

    def price(self, item: Any) -> int:
        """Return the cost of an item, in millionths.

        Raises:
            CostTooHighError: The item costs more than a whole window admits.
            ValueError: The cost function returned something other than a number of at least 0.
            Exception: Any exception of the cost function.
        """
        if self._cost is None:
            return self.constant or 0
        return self._checked(self._cost(item))

    def reported(self, metadata: Mapping[str, Any] | None) -> int | None:
        """Return the actual cost of an item by its metadata, in millionths; None if missing or invalid."""
        where = self._actual
        if where is None or metadata is None:
            return None
        try:
            number = number_or_none(metadata.get(where) if isinstance(where, str) else where(metadata))
        except Exception:  # an attempt that raised has no metadata, which the function may not expect
            return None
        return None if number is None else _units(number)

    async def acquire(self, cost: float = 1) -> Reservation:
        """Wait until a cost may start, in the order of asking; a cancelled caller is not charged.

        Args:
            cost: The cost to charge.

        Returns:
            The reservation: `settle` it once the actual cost is known.

        Raises:
            CostTooHighError: The cost is more than a whole window admits.
            ValueError: The cost is not a number of at least 0.
        """
        price = self._checked(cost)
        await self.line.enter(price)
        return Reservation(self, self.line.start(price), price)

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
            f"<RateLimit {self.rate:g} per {self.per:g} s: {(self.window.used + self.window.reserved) / UNIT:g} used, "
            f"{self.line.waiting} waiting>"
        )


class Reservation:
    """A cost that a limit has admitted and charged.

    Args:
        limit: The limit.
        charge: The entry in the limit's log.
        price: The estimated cost, in millionths.
    """

    __slots__ = ("charge", "limit", "price")

    def __init__(self, limit: RateLimit, charge: Charge, price: int) -> None:
        self.limit = limit
        self.charge = charge
        self.price = price

    def settle(self, actual: float) -> None:
        """Replace the estimate by the actual cost: the limit gives back a surplus and charges the rest from now on.

        Args:
            actual: A number of at least 0.

        Raises:
            ValueError: `actual` is not such a number.
        """
        price = _units(check_number("actual", actual))
        self.limit.line.settle(self.charge, self.price, price)
        self.price = price

    def __repr__(self) -> str:
        return f"<Reservation of {self.price / UNIT:g} in {self.limit!r}>"


def _units(cost: float) -> int:
    if cost.__class__ is int or cost > _WHOLE:
        return int(cost) * UNIT
    return round(cost * UNIT)
