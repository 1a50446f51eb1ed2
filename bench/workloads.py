"""What is measured: workloads as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["OVERHEAD", "Workload", "workload"]


@dataclass(frozen=True, slots=True)
class Workload:
    """Items, how many at once, and what one of them waits for.

    Args:
        name: For the command line.
        title: For tables.
        items: How many.
        concurrency: How many at once.
        sleep_s: How long an item sleeps, in seconds; None for not at all, so that it never awaits.
    """

    name: str
    title: str
    items: int
    concurrency: int
    sleep_s: float | None

    @property
    def ideal_s(self) -> float:
        """The wall time if nothing but the sleeping took any, in seconds."""
        return math.ceil(self.items / self.concurrency) * (self.sleep_s or 0.0)

    def cut(self, factor: int) -> Workload:
        """The same with fewer items."""
        items = max(self.concurrency, self.items // factor)
        return Workload(self.name, self.title, items, self.concurrency, self.sleep_s)


OVERHEAD: Final = (
    Workload("noop", "no-op", 100_000, 100, None),
    Workload("yield", "sleep(0)", 100_000, 100, 0.0),
    Workload("1ms", "1 ms at 100", 50_000, 100, 0.001),
    Workload("10ms", "10 ms at 1,000", 20_000, 1_000, 0.010),
    Workload("50ms", "50 ms at 100", 5_000, 100, 0.050),
)


def workload(name: str) -> Workload:
    """The workload of that name.

    Raises:
        KeyError: There is none.
    """
    return {each.name: each for each in OVERHEAD}[name]
