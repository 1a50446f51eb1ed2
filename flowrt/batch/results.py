"""What a batch gives to its caller: the results of all its items."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from flowrt.model import BatchRecord, BatchResult
from flowrt.reporting.report import BatchReport

__all__ = ["BY_INDEX", "BatchResults"]

BY_INDEX: Final = attrgetter("index")
"""What to sort results by for the order of the input."""


class BatchResults(list[BatchResult]):
    """The results of a batch, in input order.

    Attributes:
        wall_time: How long the batch took, in seconds.
        name: The processor's name.
        batch: What is known of the batch, where they are one batch's.
    """

    def __init__(
        self,
        results: Iterable[BatchResult] = (),
        *,
        name: str = "batch",
        wall_time: float = 0.0,
        batch: BatchRecord | None = None,
    ) -> None:
        super().__init__(results)
        self.name = name
        self.batch = batch
        self.wall_time = wall_time

    @property
    def succeeded(self) -> list[BatchResult]:
        """The results that are successes."""
        return [result for result in self if result.success]

    @property
    def failed(self) -> list[BatchResult]:
        """The results that are not: failed, timed out or cancelled."""
        return [result for result in self if not result.success]

    @property
    def success_rate(self) -> float:
        """Share of successes, 0 to 1; 1 for a batch of nothing."""
        return sum(result.success for result in self) / len(self) if self else 1.0

    @property
    def report(self) -> BatchReport:
        """What failed and why it took so long: totals here, more by its `text()`, `html()` and `save(path)`."""
        return BatchReport.of(self, self.name, self.wall_time, self.batch, keep=True)
