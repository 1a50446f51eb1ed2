"""What is to be measured, and within which bounds."""

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
    """How long items may take.

    Args:
        seconds: How long, in seconds.
        percentile: What share of them, in per cent.

    Raises:
        ValueError: A value is out of its range.
    """

    seconds: float
    percentile: float = 95.0

    def __post_init__(self) -> None:
        check_duration("latency budget", self.seconds)
        if not 0 < self.percentile < 100:
            raise ValueError(f"a percentile is between 0 and 100, not {self.percentile!r}")

    @classmethod
    def parse(cls, text: str) -> LatencyBudget:
        """The budget that is written as `p99=250ms`, `p95=1.5s` or `0.5`, which is of the 95th percentile.

        Raises:
            ValueError: It is written in another way.
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
    """What to measure.

    Args:
        concurrencies: A closed loop with each of these many items at once; empty to look for the knee.
        arrival_rates: An open loop with each of these many items a second, whether earlier ones have ended or not.
        step: How long each setting is measured in each pass, in seconds.
        passes: How often each setting is measured; what they differ by is the noise.
        duration: How long all of it may take, in seconds.
        max_requests: How many items may be started in all.
        most_concurrency: How far the search goes, and how many items an open loop has in flight at most.
        error_budget: The share of items that may fail.
        latency_budget: How long they may take; None for no such bound.
        item_timeout: Time limit of one item, in seconds; None for none.

    Raises:
        ValueError: A value is out of its range.
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
                f"--concurrency {_listed(self.concurrencies)} and --arrival-rate {_listed(self.arrival_rates)} are two "
                "runs: give one of them"
            )
        for each in self.concurrencies:
            if isinstance(each, bool) or not isinstance(each, int) or each < 1:
                raise ValueError(f"--concurrency {_listed(self.concurrencies)}: each is 1 or more, like 1,2,5,10")
        for rate in self.arrival_rates:
            if not 0 < rate < math.inf:
                raise ValueError(
                    f"--arrival-rate {_listed(self.arrival_rates)}: each is a positive number of items a second, "
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
            raise ValueError(f"{option} {_listed(self.settings)}: a setting is given twice")

    @property
    def open(self) -> bool:
        """Whether items arrive at a rate, in an open loop."""
        return bool(self.arrival_rates)

    @property
    def searches(self) -> bool:
        """Whether the settings are to be found."""
        return not self.concurrencies and not self.arrival_rates

    @property
    def settings(self) -> tuple[float, ...]:
        """The concurrencies or rates, in rising order; empty where they are to be found."""
        return tuple(sorted(self.arrival_rates or self.concurrencies))

    @property
    def percentile(self) -> float:
        """The percentile of latency that counts."""
        return self.latency_budget.percentile if self.latency_budget is not None else 95.0


def _listed(settings: Iterable[float]) -> str:
    return ",".join(f"{each:g}" for each in settings)


def parse_share(text: str) -> float:
    """A share that is written as `1%` or `0.01`.

    Raises:
        ValueError: It is written in another way, or is not from 0 to below 1.
    """
    number = text.strip()
    try:
        share = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        raise ValueError(f"{text!r} is no share: write 1% or 0.01") from None
    if not 0 <= share < 1:
        raise ValueError(f"{text!r} is not a share from 0 to below 1: write 1% or 0.01")
    return share
