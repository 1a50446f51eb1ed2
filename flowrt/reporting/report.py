"""Report of a batch: totals in constant memory, details computed on demand."""

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
    """Totals over a batch's results. Add results as they finish, or create the report from a finished list with `of`.

    Args:
        name: Name of the batch.

    Attributes:
        counts: Number of items by status.
        cached: Number of items that took their output from the cache.
        errors: Number of failed items by error type.
        service_times: Execution times of the items that ran, in seconds.
        wall_time: Wall time of the batch, in seconds; 0 while unknown.
        batch: Record of the batch, if the results are of one batch. Set it once the batch has ended.
    """

    def __init__(self, name: str = "batch") -> None:
        self.name = name
        self.counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.cached = 0
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
        """Return the report of finished results.

        Args:
            results: The results. They are iterated once.
            name: Name of the batch.
            wall_time: Wall time of the batch, in seconds.
            batch: Record of the batch, if the results are of one batch.
            keep: True to keep the results, so that `detail` and its forms (text, HTML, JSON) are complete. Without
                them there are totals only.
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
        """Add one finished item to the totals."""
        self.counts[result.status] += 1
        # without a start, it ran in an earlier run or its last attempt never began: no service time of this run
        if result.attempts and result.status != "resumed" and getattr(result, "started_ns", 1):
            self.service_times.add(result.execution_time)
        elif result.cached:
            self.cached += 1
        if not result.success and result.error_type is not None:
            self.errors[result.error_type] += 1

    @property
    def total(self) -> int:
        """Number of finished items."""
        return sum(self.counts.values())

    @property
    def succeeded(self) -> int:
        """Number of items that ended ok, in this run or in the run that it resumed."""
        return self.counts["ok"] + self.counts["resumed"]

    @property
    def failed(self) -> int:
        """Number of items that ended with any other status."""
        return self.total - self.succeeded

    @property
    def success_rate(self) -> float:
        """Share of items that ended ok, 0 to 1; 1 for an empty batch."""
        return self.succeeded / self.total if self.total else 1.0

    @property
    def throughput(self) -> float:
        """Items per second; 0 if the wall time is unknown."""
        return self.total / self.wall_time if self.wall_time else 0.0

    @property
    def claimed_speedup(self) -> float:
        """Sum of the execution times divided by the wall time.

        This usual figure is an upper bound: it counts the time during which other items delayed an item as its own.
        """
        return self.service_times.total / self.wall_time if self.wall_time else 0.0

    @property
    def speedup(self) -> Speedup | None:
        """Measured and claimed speedup, or None if no ledger was kept."""
        return None if self.batch is None else self.batch.speedup

    @property
    def bound_by(self) -> dict[Cause, float]:
        """Wall time by cause of the ledger, in seconds; empty if no ledger was kept."""
        if self.batch is None or self.batch.ledger is None:
            return {}
        return {cause: ns / 1e9 for cause, ns in self.batch.ledger.read(self.batch.finished_ns).items()}

    @property
    def timeline(self) -> list[tuple[float, float, dict[Cause, float]]]:
        """Ledger over time: at most 512 intervals as (begin, end, seconds by cause), in seconds from the start."""
        if self.batch is None or self.batch.ledger is None:
            return []
        return [
            (begin_ns / 1e9, end_ns / 1e9, {cause: ns / 1e9 for cause, ns in bound.items() if ns})
            for begin_ns, end_ns, bound in self.batch.ledger.timeline()
        ]

    @property
    def explanation(self) -> str:
        """Sentence about what limited the batch; empty if no ledger was kept."""
        return "" if self.batch is None else explain_batch(self.batch)

    @property
    def stalls(self) -> list[Stall]:
        """Stalls of the event loop in order of time; of more than 100, the longest 100."""
        return [] if self.batch is None or self.batch.ledger is None else list(self.batch.ledger.delays.stalls)

    @property
    def detail(self) -> Detail:
        """All figures: quantiles, causes with examples, timelines. Each access computes them again.

        A report that was filled with `add` has totals only.

        Raises:
            MissingExtraError: numpy is not installed.
        """
        if self._results is None:
            return self._totals()
        from flowrt.reporting.from_results import detail_of_results  # noqa: PLC0415  # imports numpy

        return self._with_record(detail_of_results(self._results, self.name, self.wall_time))

    def _with_record(self, detail: Detail) -> Detail:
        """Add the figures that only the batch's record has."""
        if self.batch is not None:
            detail.node = self.batch.node_id
            detail.status = self.batch.status
        detail.bound = {str(cause): seconds for cause, seconds in self.bound_by.items()}
        detail.bound_timeline = [
            (begin, end, {str(cause): seconds for cause, seconds in bound.items()})
            for begin, end, bound in self.timeline
        ]
        if self.stalls and self.batch is not None:
            from flowrt.recording.metadata import describe_stalls  # noqa: PLC0415  # not needed for totals

            detail.stalls = describe_stalls(sorted(self.stalls, key=lambda stall: -stall.held_s), self.batch)
        detail.speedup = {} if self.speedup is None else self.speedup.as_dict()
        detail.explanation = self.explanation
        if self.batch is not None and self.speedup is not None and self.speedup.diverges:
            detail.overstated = why_overstated(self.batch, self.speedup)
        return detail

    def _totals(self) -> Detail:
        from flowrt.reporting.figures import Detail  # noqa: PLC0415  # not needed for totals

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
        return self._with_record(totals)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values. Durations are in seconds.

        Raises:
            MissingExtraError: numpy is not installed.
        """
        return self.detail.as_dict()

    def html(self, *, trace_url: str | None = None) -> str:
        """Return the report as one HTML page with interactive charts that needs no other file and no network.

        Args:
            trace_url: URL of a trace in your tracing UI, with `{trace_id}` in place of its id. Trace ids become links.

        Raises:
            MissingExtraError: bokeh is not installed. It comes with the extra `report`.
            ValueError: `trace_url` is not an http or https URL with `{trace_id}`.
        """
        from flowrt.reporting.html_page import page_of  # noqa: PLC0415  # heavy

        return page_of(self.detail, trace_url)

    def save(self, path: str | os.PathLike[str], *, trace_url: str | None = None) -> None:
        """Write the HTML page, or JSON if the name ends in `.json`. The file gets mode 0600.

        Args:
            path: The file to write. An existing file is replaced.
            trace_url: URL of a trace, as in `html`.

        Raises:
            MissingExtraError: bokeh is not installed. It comes with the extra `report`.
            OSError: The file cannot be written.
            ValueError: `trace_url` is not an http or https URL with `{trace_id}`.
        """
        target = Path(path)
        from flowrt._util.atomic_file import write_private  # noqa: PLC0415  # not needed for totals

        as_json = target.suffix == ".json"
        write_private(target, json.dumps(self.as_dict(), indent=2) if as_json else self.html(trace_url=trace_url))

    def text(self) -> str:
        """Return the report as plain text.

        Raises:
            MissingExtraError: numpy is not installed.
        """
        from flowrt.reporting.terminal import text_of  # noqa: PLC0415  # not needed for totals

        return text_of(self.detail)

    def _repr_html_(self) -> str:
        """Return the fragment that notebooks show; the totals only if numpy is missing."""
        from flowrt.reporting.notebook import fragment_of  # noqa: PLC0415  # not needed for totals

        try:
            return fragment_of(self.detail)
        except MissingExtraError:
            return fragment_of(self._totals())

    def __repr__(self) -> str:
        parts = ", ".join(f"{count:,} {status}" for status, count in self.counts.items() if count)
        return f"<BatchReport {self.name!r}: {parts or 'no items'}, {self.wall_time:.3f} s>"
