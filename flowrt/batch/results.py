"""BatchResults: the results of a batch in input order, with properties for common questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape
from operator import attrgetter
from typing import Any, Final, Never, Self, cast

from flowrt.errors import FlowrtError
from flowrt.model import STATUSES, BatchRecord, BatchResult
from flowrt.model.result import ItemFailedError
from flowrt.model.type_variables import In, Missing_co, Out
from flowrt.reporting.report import BatchReport

__all__ = ["BY_INDEX", "BatchFailedError", "BatchResults", "attach_results", "was_rejected"]

BY_INDEX: Final = attrgetter("index")
"""Sort key that restores input order."""


class BatchFailedError(ExceptionGroup[Exception], FlowrtError):
    """Items of a batch failed, or it ended before its input did: a group of the errors.

    `BatchResults.raise_for_failures` raises it; so does a stream whose batch ended before its input did, after the last
    result. An item without an exception of its own (a failed NodeResult, a cancelled item) has an `ItemFailedError` in
    the group, so `except*` finds each cause.

    Args:
        failed: The failed results.
        total: Number of items in the batch.
        cut_off: The error of a batch that ended before its input did: a TimeoutError at `batch_timeout`. None for
            others, of which at least one item has failed.

    Attributes:
        failed: The failed results, in the order of `exceptions`. A stream has yielded them, and gives none here.
        total: As the argument.
        cut_off: As the argument; the last of `exceptions`.
    """

    failed: list[BatchResult]
    total: int
    cut_off: Exception | None

    def __new__(cls, failed: Sequence[BatchResult], total: int, cut_off: Exception | None = None) -> Self:
        message = "" if cut_off is None else str(cut_off)
        if failed:
            kinds = Counter(result.error_type for result in failed).most_common(5)
            types, first = ", ".join(f"{count:,} {kind}" for kind, count in kinds), failed[0]
            text = f"{len(failed):,} of {total:,} items failed ({types}); "
            text += f"the first is item {first.index}: {first.error}"
            message = f"{text}; {message}" if message else text
        errors = [r.exception if isinstance(r.exception, Exception) else ItemFailedError(r) for r in failed]
        group = super().__new__(cls, message, errors if cut_off is None else [*errors, cut_off])
        group.failed = list(failed)
        group.total = total
        group.cut_off = cut_off
        return group

    def __reduce__(self) -> tuple[type[BatchFailedError], tuple[list[BatchResult], int, Exception | None]]:
        return type(self), (self.failed, self.total, self.cut_off)


class BatchResults(list[BatchResult[In, Out, Missing_co]]):
    """Results of a batch, in input order, of items of type `In` with outputs of type `Out`.

    `BatchResults[In, Out, Never]`, which `raise_for_failures` returns, has no None among its outputs.

    Attributes:
        wall_time: Wall time of the batch, in seconds.
        name: Name of the processor.
        batch: Record of the batch, or None if the results come from several batches.
        cut_off: Error of a batch that ended before its input did, or None. Inputs that it had not read have no result.
    """

    def __init__(
        self,
        results: Iterable[BatchResult[In, Out, Missing_co]] = (),
        *,
        name: str = "batch",
        wall_time: float = 0.0,
        batch: BatchRecord | None = None,
    ) -> None:
        super().__init__(results)
        self.name = name
        self.batch = batch
        self.wall_time = wall_time
        self.cut_off = None if batch is None else batch.cut_off

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"name": self.name, "wall_time": self.wall_time, "batch": self.batch, "cut_off": self.cut_off}
        return type(self), (), state, iter(self)

    @property
    def outputs(self) -> list[Out | Missing_co]:
        """Outputs in input order, with None for each failed item."""
        return [result.output if result.success else cast("Missing_co", None) for result in self]

    @property
    def succeeded(self) -> list[BatchResult[In, Out, Never]]:
        """Results of the items that ended `ok` or `resumed`."""
        return cast("list[BatchResult[In, Out, Never]]", [result for result in self if result.success])

    @property
    def failed(self) -> list[BatchResult[In, Out]]:
        """Results of the items that failed, timed out or were cancelled."""
        return [result for result in self if not result.success]

    @property
    def success_rate(self) -> float:
        """Share of successes, 0 to 1; 1 for an empty batch."""
        return sum(result.success for result in self) / len(self) if self else 1.0

    @property
    def report(self) -> BatchReport:
        """Report of the batch: totals as attributes, details by `text()`, `html()` and `save(path)`."""
        return BatchReport.of(self, self.name, self.wall_time, self.batch, keep=True)

    def raise_for_failures(self) -> BatchResults[In, Out, Never]:
        """Raise one exception for all failed items, and for a batch that ended before its input did.

        Returns:
            This object, typed so that its outputs are not None.

        Raises:
            BatchFailedError: Items failed, timed out or were cancelled; or `batch_timeout`, a signal or the live page
                ended the batch while inputs were left to read, which have no result.
        """
        failed, cut_off = self.failed, self.cut_off
        if failed or cut_off is not None:
            raise BatchFailedError(failed, len(self), cut_off)
        return cast("BatchResults[In, Out, Never]", self)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame, one row per item.

        The columns are index, status, input, output, error, error_type, attempts, execution_time and queue_time; the
        last two are in seconds. Inputs and outputs are the same objects, not copies.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        from flowrt.batch.tables import to_pandas  # noqa: PLC0415  # not needed to run a batch

        return to_pandas(self)

    def to_polars(self) -> Any:
        """Return a polars DataFrame made from the table of `to_arrow`.

        Raises:
            MissingExtraError: polars or pyarrow is not installed.
        """
        from flowrt.batch.tables import to_polars  # noqa: PLC0415  # not needed to run a batch

        return to_polars(self)

    def to_arrow(self) -> Any:
        """Return a pyarrow Table with the columns of `to_pandas`.

        Inputs or outputs without a common Arrow type become JSON text.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        from flowrt.batch.tables import to_arrow  # noqa: PLC0415  # not needed to run a batch

        return to_arrow(self)

    def __repr__(self) -> str:
        counts = Counter(result.status for result in self)
        parts = ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])
        return f"<BatchResults {self.name!r}: {parts or 'no items'}, {self.wall_time:.3f} s>"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the totals, what limited the batch, and the first rows."""
        from flowrt.batch.tables import html_table  # noqa: PLC0415  # not needed to run a batch

        explanation = "" if self.batch is None else self.report.explanation
        lines = "".join(f"<p>{escape(text)}</p>" for text in (repr(self), explanation) if text)
        return f"<div>{lines}{html_table(self)}</div>"


def attach_results(error: BaseException, results: BatchResults) -> None:
    """Set the attribute `results` of the source's exception to the results of the finished items.

    Args:
        error: The exception. If it takes no attribute, it gets a note instead.
        results: The results.
    """
    try:
        error.results = results  # type: ignore[attr-defined]  # an exception takes any attribute, or nearly any
    except Exception:  # a class with slots or a setter of its own
        with suppress(Exception):
            error.add_note(f"{len(results):,} items had finished; batch_as_completed gives each result as it finishes")


def was_rejected(result: BatchResult) -> bool:
    """Return whether the input was `Rejected`, so that there is nothing to run again."""
    return result.status == "failed" and not result.attempts and result.exception is None
