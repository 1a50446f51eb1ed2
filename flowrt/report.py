"""What a batch came to: the totals of its results, in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Self

from flowrt.quantiles import Quantiles
from flowrt.records import STATUSES, BatchResult

__all__ = ["BatchReport"]


class BatchReport:
    """Totals over a batch's results; feed it with `add` as they finish, or make it of a finished list.

    Args:
        name: The batch's name.

    Attributes:
        counts: Items by status.
        errors: Failed items by error type.
        service_times: Execution times of the items that ran, in seconds.
        wall_time: How long the batch took, in seconds; 0 while that is not known.
    """

    def __init__(self, name: str = "batch") -> None:
        self.name = name
        self.counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.errors: Counter[str] = Counter()
        self.service_times = Quantiles()
        self.wall_time = 0.0

    @classmethod
    def of(cls, results: Iterable[BatchResult], name: str = "batch", wall_time: float = 0.0) -> Self:
        """The report of finished results."""
        report = cls(name)
        for result in results:
            report.add(result)
        report.wall_time = wall_time
        return report

    def add(self, result: BatchResult) -> None:
        """Count one finished item."""
        self.counts[result.status] += 1
        if result.attempts:
            self.service_times.add(result.execution_time)
        if not result.success and result.error_type is not None:
            self.errors[result.error_type] += 1

    @property
    def total(self) -> int:
        """Items that ended."""
        return sum(self.counts.values())

    @property
    def succeeded(self) -> int:
        """Items that ended ok, in this run or in the one that it resumed."""
        return self.counts["ok"] + self.counts["resumed"]

    @property
    def failed(self) -> int:
        """Items that ended in any other way."""
        return self.total - self.succeeded

    @property
    def success_rate(self) -> float:
        """Share of the items that ended ok, 0 to 1; 1 where there were none."""
        return self.succeeded / self.total if self.total else 1.0

    @property
    def throughput(self) -> float:
        """Items per second; 0 where the wall time is not known."""
        return self.total / self.wall_time if self.wall_time else 0.0

    @property
    def claimed_speedup(self) -> float:
        """Sum of the execution times over the wall time.

        The usual figure, and an upper bound: time in which an item was held up by others' blocking counts as its own.
        """
        return self.service_times.total / self.wall_time if self.wall_time else 0.0

    def __repr__(self) -> str:
        parts = ", ".join(f"{count:,} {status}" for status, count in self.counts.items() if count)
        return f"<BatchReport {self.name!r}: {parts or 'no items'}, {self.wall_time:.3f} s>"
