"""Stream of a batch's results, with a report at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from flowrt.batch.results import BatchFailedError, BatchResults
from flowrt.engine.batch_run import BatchRun
from flowrt.engine.outcome import Deliver
from flowrt.engine.result_stream import ResultStream
from flowrt.model import BatchRecord, BatchResult
from flowrt.model.type_variables import In, Out
from flowrt.reporting.report import BatchReport

__all__ = ["BatchStream"]


class BatchStream(ResultStream[In, Out]):
    """Async iterator over a batch's results in the order in which they finish.

    Args:
        start: Makes a run that delivers its results to the given function.
        name: Name of the batch.
    """

    __slots__ = ("_report",)

    def __init__(self, start: Callable[[Deliver], BatchRun | Awaitable[BatchRun]], name: str) -> None:
        report = self._report = BatchReport(name)

        def start_reported(deliver: Deliver) -> BatchRun | Awaitable[BatchRun]:
            def deliver_reported(result: BatchResult) -> None:
                report.add(result)
                deliver(result)

            return start(deliver_reported)

        super().__init__(start_reported)

    def _undelivered(self, results: list[BatchResult]) -> BatchResults:
        return BatchResults(results, name=self._report.name, batch=self.batch)

    def _incomplete(self, cut_off: Exception, batch: BatchRecord) -> BatchFailedError:
        return BatchFailedError((), batch.completed, cut_off)

    @property
    def report(self) -> BatchReport | None:
        """Report of the batch: totals, limiting cause, speedup. None until the batch has ended.

        A stream keeps no results, so the report lists causes of failures with their counts and without examples.
        """
        batch = self.batch
        if batch is None or not batch.finished_ns:
            return None
        report = self._report
        report.batch = batch
        report.wall_time = (batch.finished_ns - batch.started_ns) / 1e9
        return report
