"""Workloads of the bench, as data."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = ["WORKLOADS", "Workload", "workload"]

Kind = Literal["noop", "sleep", "lognormal", "pareto", "flaky", "http", "cpu"]

_SEED: Final = 7


@dataclass(frozen=True, slots=True)
class Workload:
    """Number of items, their concurrency, and the work of one.

    Args:
        name: Name for the command line.
        title: Title in tables.
        items: Number of items.
        concurrency: Concurrency.
        kind: Work of an item: nothing, without an await; a sleep of constant, lognormal or heavy-tailed (Pareto)
            length; a sleep whose first attempt fails for some items; a request to an HTTP service in another process,
            which sleeps; or computing.
        seconds: Length in seconds; the mean of a distribution.
        shape: Sigma of the lognormal distribution, alpha of Pareto's.
        failing: Share of items whose first attempt fails, and which are retried.
        core: True for workloads of the README's suite.
    """

    name: str
    title: str
    items: int
    concurrency: int
    kind: Kind = "sleep"
    seconds: float = 0.0
    shape: float = 0.0
    failing: float = 0.0
    core: bool = False

    @property
    def attempts(self) -> int:
        """Most attempts of an item."""
        return 5 if self.failing else 1

    def times_s(self) -> list[float]:
        """Sleep of each item in seconds, the same in every run."""
        chance = random.Random(_SEED)  # noqa: S311  # to be the same every time is the point
        if self.kind == "lognormal":
            mu = math.log(self.seconds) - self.shape**2 / 2
            return [chance.lognormvariate(mu, self.shape) for _ in range(self.items)]
        if self.kind == "pareto":
            least = self.seconds * (self.shape - 1) / self.shape
            most = 25 * self.seconds  # a longer tail would differ too much between runs
            return [min(most, least * chance.paretovariate(self.shape)) for _ in range(self.items)]
        return [self.seconds] * self.items

    def fails_first(self, number: int) -> bool:
        """True if the first attempt of an item fails."""
        return bool(self.failing) and number % round(1 / self.failing) == 0

    @property
    def ideal_s(self) -> float:
        """Wall time of the waiting alone, in seconds; 0 if nothing waits."""
        if self.kind in ("noop", "cpu") or not self.seconds:
            return 0.0
        if self.kind in ("lognormal", "pareto"):
            times = self.times_s()
            return max(*times, sum(times) / self.concurrency)
        attempts = self.items + sum(map(self.fails_first, range(1, self.items + 1)))
        return math.ceil(attempts / self.concurrency) * self.seconds

    def cut(self, factor: int) -> Workload:
        """The workload with a fraction of its items."""
        return self.of(max(min(self.items, self.concurrency), self.items // factor))

    def of(self, items: int) -> Workload:
        """The workload with another number of items."""
        return replace(self, items=items)


WORKLOADS: Final = (
    Workload("noop", "no-op", 100_000, 100, "noop", core=True),
    Workload("yield", "sleep(0)", 100_000, 100, core=True),
    Workload("1ms", "1 ms at 100", 50_000, 100, seconds=0.001, core=True),
    Workload("10ms", "10 ms at 1,000", 20_000, 1_000, seconds=0.010, core=True),
    Workload("50ms", "50 ms at 100", 5_000, 100, seconds=0.050, core=True),
    Workload("lognormal", "lognormal, 20 ms in the mean, at 100", 2_500, 100, "lognormal", 0.020, shape=1.0),
    Workload("heavy", "heavy-tailed (Pareto 1.5), 20 ms in the mean, at 100", 2_500, 100, "pareto", 0.020, shape=1.5),
    Workload("flaky", "10 ms at 100, every tenth fails at first", 2_500, 100, "flaky", 0.010, failing=0.1),
    Workload("http", "HTTP service on loopback, 20 ms, at 100", 2_000, 100, "http", 0.020),
    Workload("cpu", "hashing in Python, about 0.1 ms, at 100", 2_500, 100, "cpu", 0.0001),
)


def workload(name: str) -> Workload:
    """The workload of a name.

    Raises:
        KeyError: The name is unknown.
    """
    return {each.name: each for each in WORKLOADS}[name]
