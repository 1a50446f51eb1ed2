"""What a batch came to: the totals of its results in constant memory, and all that is known of them on demand."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flowrt._util.quantiles import Quantiles
from flowrt.attribution.explanation import explain_batch, why_overstated
from flowrt.attribution.ledger import Cause
from flowrt.attribution.speedup import Speedup
from flowrt.attribution.stalls import Stall
from flowrt.errors import MissingExtraError
from flowrt.model import STATUSES, BatchRecord, BatchResult

if TYPE_CHECKING:
    from flowrt.reporting.figures import Detail

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
        batch: What is known of the batch that the results are of, where they are one batch's: set it when that has
            ended.
    """

    def __init__(self, name: str = "batch") -> None:
        self.name = name
        self.counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.errors: Counter[str] = Counter()
        self.service_times = Quantiles()
        self.wall_time = 0.0
        self.batch: BatchRecord | None = None
        self._results: Sequence[BatchResult] | None = None

    @classmethod
    def of(
        cls,
        results: Iterable[BatchResult],
        name: str = "batch",
        wall_time: float = 0.0,
        batch: BatchRecord | None = None,
        *,
        keep: bool = False,
    ) -> Self:
        """The report of finished results.

        Args:
            results: Taken once.
            name: The batch's name.
            wall_time: How long the batch took, in seconds.
            batch: What is known of the batch that they are of, where it is one batch's.
            keep: Hold on to the results, so that `detail` and the forms made of it have all that is known of them;
                else there are only the totals.
        """
        report = cls(name)
        if keep:
            results = report._results = list(results)
        for result in results:
            report.add(result)
        report.wall_time = wall_time
        report.batch = batch
        return report

    def add(self, result: BatchResult) -> None:
        """Count one finished item."""
        self.counts[result.status] += 1
        # what has no start ran in another run, or was not left to begin its last attempt
        if result.attempts and result.status != "resumed" and getattr(result, "started_ns", 1):
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

    @property
    def speedup(self) -> Speedup | None:
        """The claimed speedup beside the measured one; None where no account was kept."""
        return None if self.batch is None else self.batch.speedup

    @property
    def bound_by(self) -> dict[Cause, float]:
        """The batch's wall time by what held it back, in seconds; empty where no account was kept."""
        if self.batch is None or self.batch.ledger is None:
            return {}
        return {cause: ns / 1e9 for cause, ns in self.batch.ledger.read(self.batch.finished_ns).items()}

    @property
    def timeline(self) -> list[tuple[float, float, dict[Cause, float]]]:
        """The same over time: pieces from and to in seconds from the start, at most 512 of them."""
        if self.batch is None or self.batch.ledger is None:
            return []
        return [
            (begin_ns / 1e9, end_ns / 1e9, {cause: ns / 1e9 for cause, ns in bound.items() if ns})
            for begin_ns, end_ns, bound in self.batch.ledger.timeline()
        ]

    @property
    def explanation(self) -> str:
        """What held the batch back, in one sentence; empty where no account was kept."""
        return "" if self.batch is None else explain_batch(self.batch)

    @property
    def stalls(self) -> list[Stall]:
        """Times that the event loop was blocked, the longest hundred of them, in order."""
        return [] if self.batch is None or self.batch.ledger is None else list(self.batch.ledger.delays.stalls)

    @property
    def detail(self) -> Detail:
        """All that is known: quantiles, causes with examples, what happened when. Worked out anew each time.

        Of a report that was fed item by item there are only the totals.

        Raises:
            MissingExtraError: numpy is not installed.
        """
        if self._results is None:
            return self._totals()
        from flowrt.reporting.from_results import detail_of_results  # noqa: PLC0415  # only for those who ask

        return self._with_account(detail_of_results(self._results, self.name, self.wall_time))

    def _with_account(self, detail: Detail) -> Detail:
        """What the batch's record knows, and its results do not."""
        if self.batch is not None:
            detail.node = self.batch.node_id
            detail.status = self.batch.status
        detail.bound = {str(cause): seconds for cause, seconds in self.bound_by.items()}
        detail.bound_timeline = [
            (begin, end, {str(cause): seconds for cause, seconds in bound.items()})
            for begin, end, bound in self.timeline
        ]
        detail.stalls = [stall.as_dict() for stall in sorted(self.stalls, key=lambda stall: -stall.held_s)]
        detail.speedup = {} if self.speedup is None else self.speedup.as_dict()
        detail.explanation = self.explanation
        if self.batch is not None and self.speedup is not None and self.speedup.diverges:
            detail.overstated = why_overstated(self.batch, self.speedup)
        return detail

    def _totals(self) -> Detail:
        from flowrt.reporting.figures import Detail  # noqa: PLC0415  # only for those who ask

        times = self.service_times
        quantiles = {f"p{100 * q:g}": times.at(q) for q in (0.5, 0.9, 0.95, 0.99, 0.999)} if times.count else {}
        if quantiles:
            quantiles |= {"mean": times.total / times.count, "min": times.lowest, "max": times.highest}
        known: dict[str, Any] = {"kind": "error", "http_status": None, "where": None, "raised": False, "examples": []}
        totals = Detail(
            name=self.name,
            wall_s=self.wall_time,
            counts=self.counts.copy(),
            attempts=times.count,
            service=quantiles,
            busy_s=times.total,
            causes=[
                {"type": kind, "text": "", "items": count, "attempts": count, **known}
                for kind, count in self.errors.most_common()
            ],
        )
        return self._with_account(totals)

    def as_dict(self) -> dict[str, Any]:
        """The figures, as JSON holds them; durations in seconds.

        Raises:
            MissingExtraError: numpy is not installed.
        """
        return self.detail.as_dict()

    def html(self) -> str:
        """One HTML page with interactive charts that needs no other file and no network.

        Raises:
            MissingExtraError: bokeh is not installed: it comes with the extra `report`.
        """
        from flowrt.reporting.html_page import page_of  # noqa: PLC0415  # heavy

        return page_of(self.detail)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page, or JSON where the name ends in `.json`; only its owner may read it.

        Args:
            path: The file; one that exists is replaced.

        Raises:
            MissingExtraError: bokeh is not installed: it comes with the extra `report`.
            OSError: It cannot be written.
        """
        target = Path(path)
        from flowrt._util.atomic_file import write_private  # noqa: PLC0415  # only for those who ask

        write_private(target, json.dumps(self.as_dict(), indent=2) if target.suffix == ".json" else self.html())

    def text(self) -> str:
        """The report as plain text.

        Raises:
            MissingExtraError: numpy is not installed.
        """
        from flowrt.reporting.terminal import text_of  # noqa: PLC0415  # only for those who ask

        return text_of(self.detail)

    def _repr_html_(self) -> str:
        """How a notebook shows it; without numpy, the totals."""
        from flowrt.reporting.notebook import fragment_of  # noqa: PLC0415  # only for those who ask

        try:
            return fragment_of(self.detail)
        except MissingExtraError:
            return fragment_of(self._totals())

    def __repr__(self) -> str:
        parts = ", ".join(f"{count:,} {status}" for status, count in self.counts.items() if count)
        return f"<BatchReport {self.name!r}: {parts or 'no items'}, {self.wall_time:.3f} s>"
