"""Settings and bounds of a load test."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from flowrt._util.validation import check_duration

__all__ = ["LatencyBudget", "Plan", "parse_share"]

_BUDGET: Final = re.compile(
    r"(?:p(?P<percentile>\d{1,2}(?:\.\d+)?)\s*[=<]\s*)?(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s)?"
)


@dataclass(frozen=True, slots=True)
class LatencyBudget:
    """Upper bound of a latency percentile.

    Args:
        seconds: The bound, in seconds.
        percentile: The percentile, between 0 and 100.

    Raises:
        ValueError: A value is out of range.
    """

    seconds: float
    percentile: float = 95.0

    def __post_init__(self) -> None:
        check_duration("latency budget", self.seconds)
        if not 0 < self.percentile < 100:
            raise ValueError(f"a percentile is between 0 and 100, not {self.percentile!r}")

    @classmethod
    def parse(cls, text: str) -> LatencyBudget:
        """Read `p99=250ms`, `p95=1.5s` or `0.5` (seconds, of the 95th percentile).

        Raises:
            ValueError: The text has another form.
        """
        found = _BUDGET.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is no latency budget: write p99=250ms, p95=1.5s or 0.5")
        seconds = float(found["number"]) / (1_000 if found["unit"] == "ms" else 1)
        return cls(seconds, float(found["percentile"] or 95))

    def __str__(self) -> str:
        return f"p{self.percentile:g} ≤ {self.seconds * 1e3:g} ms"


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings to measure, and the bounds of the whole test.

    Args:
        concurrencies: Concurrencies of a closed loop; empty to search for the knee.
        arrival_rates: Arrival rates of an open loop, in items a second.
        step: Length of one setting in one pass, in seconds.
        passes: Measurements of each setting; the differences between passes are its noise.
        duration: Upper bound of the whole test, in seconds.
        max_requests: Upper bound of items started in the whole test.
        most_concurrency: Highest concurrency of a search, and most items in flight in an open loop.
        error_budget: Share of items that load may make fail.
        latency_budget: Upper bound of a latency percentile; None for no bound.
        item_timeout: Time limit of one item, in seconds; None for no limit.

    Raises:
        ValueError: A value is out of range.
    """

    _: KW_ONLY
    concurrencies: tuple[int, ...] = ()
    arrival_rates: tuple[float, ...] = ()
    step: float = 5.0
    passes: int = 2
    duration: float = 120.0
    max_requests: int = 100_000
    most_concurrency: int = 1_000
    error_budget: float = 0.01
    latency_budget: LatencyBudget | None = None
    item_timeout: float | None = None

    def __post_init__(self) -> None:
        if self.concurrencies and self.arrival_rates:
            raise ValueError(
                f"--concurrency {_joined(self.concurrencies)} and --arrival-rate {_joined(self.arrival_rates)} are two "
                "runs: give one of them"
            )
        for each in self.concurrencies:
            if isinstance(each, bool) or not isinstance(each, int) or each < 1:
                raise ValueError(f"--concurrency {_joined(self.concurrencies)}: each is 1 or more, like 1,2,5,10")
        for rate in self.arrival_rates:
            if not 0 < rate < math.inf:
                raise ValueError(
                    f"--arrival-rate {_joined(self.arrival_rates)}: each is a positive number of items a second, "
                    "like 10,50,100"
                )
        for name in ("passes", "max_requests", "most_concurrency"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value!r}: it is 1 or more")
        for name in ("step", "duration", "item_timeout"):
            check_duration(f"--{name.replace('_', '-')}", getattr(self, name))
        if not 0 <= self.error_budget < 1:
            raise ValueError(f"--error-budget {self.error_budget!r}: it is a share from 0 to below 1, like 1% or 0.01")
        if len(set(self.settings)) < len(self.settings):
            option = "--arrival-rate" if self.open else "--concurrency"
            raise ValueError(f"{option} {_joined(self.settings)}: a setting is given twice")

    @property
    def open(self) -> bool:
        """True for an open loop, in which items arrive at a rate."""
        return bool(self.arrival_rates)

    @property
    def searches(self) -> bool:
        """True if the test searches for its settings."""
        return not self.concurrencies and not self.arrival_rates

    @property
    def single(self) -> bool:
        """True for one setting, so that no lower one shows how the node fares with less load."""
        return len(self.settings) == 1

    @property
    def settings(self) -> tuple[float, ...]:
        """Concurrencies or rates in rising order; empty for a search."""
        return tuple(sorted(self.arrival_rates or self.concurrencies))

    @property
    def percentile(self) -> float:
        """Latency percentile that the budget bounds; the 95th without a budget."""
        return self.latency_budget.percentile if self.latency_budget is not None else 95.0


def _joined(settings: Iterable[float]) -> str:
    return ",".join(f"{each:g}" for each in settings)


def parse_share(text: str) -> float:
    """Read a share written as `1%` or `0.01`.

    Raises:
        ValueError: The text has another form, or the share is not from 0 to below 1.
    """
    number = text.strip()
    try:
        share = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        raise ValueError(f"{text!r} is no share: write 1% or 0.01") from None
    if not 0 <= share < 1:
        raise ValueError(f"{text!r} is not a share from 0 to below 1: write 1% or 0.01")
    return share
