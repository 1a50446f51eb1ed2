"""Job of `flowrt run`: reads items, runs them, writes and counts the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import stat_result
from pathlib import Path
from typing import Final

from flowrt.batch.processor import BatchProcessor
from flowrt.cli.commands.run_status import FailureLines, StatusLines
from flowrt.cli.exit_codes import ALL_OK, SOME_FAILED, CommandError, say
from flowrt.cli.io.output_files import Target, open_target
from flowrt.cli.io.prefetch import SizedPrefetcher
from flowrt.cli.io.readers import Input
from flowrt.cli.io.result_encoders import Encoder, make_encoder
from flowrt.cli.io.result_lines import LineMaker, input_line
from flowrt.cli.io.writer_thread import OutputWriter
from flowrt.cli.options.fail_if import Condition
from flowrt.cli.options.node_context import entered
from flowrt.cli.options.output import OutputOptions
from flowrt.errors import JournalError
from flowrt.journal import Journal
from flowrt.model import BatchResult, Rejected
from flowrt.reporting.report import BatchReport
from flowrt.telemetry.redaction import redact

__all__ = ["Job", "Outputs"]

_NOT_STARTED: Final = "CancelledError"


@dataclass(frozen=True, slots=True)
class Outputs:
    """Destinations of a job's results.

    Args:
        target: Where the results are written.
        lines: Makes the line of a result.
        encoder: Encoder of the format; JSON Lines by default.
        errors: Where the inputs of failed items are written, or None.
    """

    target: Target
    lines: LineMaker
    encoder: Encoder | None = None
    errors: Target | None = None

    @classmethod
    def open(
        cls,
        options: OutputOptions,
        *,
        stdout: int | None,
        inputs: Sequence[stat_result],
        is_own: Callable[[Path], bool] = lambda _: False,
    ) -> Outputs:
        """Open the files of the output options.

        Args:
            options: Options of the output.
            stdout: File descriptor for standard output, if the output is that.
            inputs: File status of each input.
            is_own: Returns True for an output of this very run, which may be replaced.

        Raises:
            CommandError: A file exists, is an input, or cannot be created.
        """
        encoder = None if stdout is not None else make_encoder(options.output)
        target = open_target(options.output, stdout=stdout, overwrite=options.overwrite, inputs=inputs, is_own=is_own)
        errors = None
        if options.errors is not None:
            try:
                errors = open_target(options.errors, stdout=None, overwrite=options.overwrite, inputs=inputs)
            except BaseException:
                target.abandon()
                target.close()
                raise
        return cls(target, LineMaker(options.output_fields, keep_input=options.keep_input), encoder, errors)

    def discard(self) -> None:
        """Close the files of a job that will not run."""
        for target in (self.target, self.errors):
            if target is not None:
                target.abandon()
                target.close()


class Job:
    """Runs a processor over an input into an output, once.

    Args:
        processor: The processor.
        source: The input; closed at the end.
        outputs: Destinations of the results; closed at the end.
        progress: Draw a progress bar.
        status_lines: Print a line of progress now and then.
        failure_lines: Print a line for each kind of failure.
        journal: The processor's journal, which its owner closes.
        fail_if: Conditions under which a complete run has failed; without any, it has if an item has.

    Attributes:
        report: Totals so far.
        started: True once `run` has begun.
        over: True once `run` has ended in order; `report` is complete.
        complete: True if every item of the input has its line in the output.
    """

    def __init__(
        self,
        processor: BatchProcessor,
        source: Input,
        outputs: Outputs,
        *,
        progress: bool,
        status_lines: bool = False,
        failure_lines: bool = False,
        journal: Journal | None = None,
        fail_if: Sequence[Condition] = (),
    ) -> None:
        self.report = BatchReport(processor.name)
        self.started = False
        self.over = False
        self.complete = False
        self._fail_if = fail_if
        self._processor = processor
        self._source = source
        self._outputs = outputs
        self._make_line = outputs.lines.make
        self._progress = progress
        self._status_lines = status_lines
        self._failures = FailureLines(active=failure_lines)
        self._journal = journal
        self._errors: OutputWriter | None = None
        self._unread = 0

    @property
    def exit_code(self) -> int:
        """0 if every item of the input ended ok, or no condition of `fail_if` holds; otherwise 1."""
        failed = self.report.failed if self.met is None else self.met
        return ALL_OK if self.complete and not failed else SOME_FAILED

    @property
    def met(self) -> list[str] | None:
        """The conditions of `fail_if` that hold, with the run's figures; None if there are no conditions."""
        if not self._fail_if:
            return None
        return [met for condition in self._fail_if if (met := condition.check(self.report)) is not None]

    async def run(self, on_start: Callable[[], None]) -> None:
        """Read, run and write.

        Args:
            on_start: Called first, on the loop.

        Raises:
            CommandError: The input turned out to be unreadable, or the disk failed.
            OutputClosedError: The reader of standard output has closed it.
        """
        self.started = True
        on_start()
        began = time.perf_counter()
        writer = OutputWriter(self._outputs.target, self._outputs.encoder)
        if self._outputs.errors is not None:
            self._errors = OutputWriter(self._outputs.errors)
        try:
            async with entered(self._processor.node):
                with StatusLines(self.report, self._expected(), active=self._status_lines):
                    await self._stream(writer)
            if self._timed_out(time.perf_counter() - began):
                await self._cancel_rest(writer)
            self.complete = self._is_complete()
            feed = self._source.feed
            if not self.complete and isinstance(feed, SizedPrefetcher) and feed.exhausted:
                say(f"the input had {len(feed):,} items when it was opened, and {self.report.total:,} were read: rerun")
        finally:
            self._failures.close()
            self.report.wall_time = time.perf_counter() - began
            await self._source.feed.close()
            if self._source.feed.ended:
                self._source.close()
            try:
                await writer.close(complete=self.complete)
            finally:
                if self._errors is not None:
                    await self._errors.close(complete=self.complete)
        if self._unread:
            say(f"not in the errors file: {self._unread:,} items of the input that could not be read")
        self.over = True

    def _expected(self) -> int | None:
        feed = self._source.feed
        return len(feed) if isinstance(feed, SizedPrefetcher) else None

    async def _stream(self, writer: OutputWriter) -> None:
        """Write every result as its item completes."""
        async with self._processor.batch_as_completed(self._source.feed, progress=self._progress) as results:
            while True:
                try:
                    result = await anext(results)
                except StopAsyncIteration:
                    self.report.batch = results.batch
                    return
                except (CommandError, JournalError):  # raised by the input and the journal
                    raise
                except Exception:
                    if results.batch is not None and results.batch.cut_off is not None:
                        self.report.batch = results.batch
                        return
                    if self._processor.continue_on_error or not self.report.failed:
                        raise
                    say(f"stopped at the first failure, as --fail-fast asks: {self._first_failure}")
                    return
                await self._put(result, writer)

    async def _put(self, result: BatchResult, writer: OutputWriter) -> None:
        if not result.success:
            await self._put_failed(result)
        self.report.add(result)
        # the output of a resumed run is the same as that of an uninterrupted one
        await writer.write(self._make_line(result.replace(status="ok") if result.status == "resumed" else result))

    async def _put_failed(self, result: BatchResult) -> None:
        self._failures.add(result)
        if not self.report.failed:
            self._first_failure = f"item {result.index}: {redact(result.error or '')}"
        if self._errors is None:
            return
        if result.index in self._source.rejected:
            self._unread += 1
        else:
            await self._errors.write(input_line(result))

    def _timed_out(self, elapsed_s: float) -> bool:
        limit_s = self._processor.batch_timeout
        return limit_s is not None and elapsed_s >= limit_s and not self._is_complete()

    def _is_complete(self) -> bool:
        feed = self._source.feed
        if not isinstance(feed, SizedPrefetcher):
            return feed.exhausted
        missing = len(feed) - self.report.total
        return not missing or (feed.exhausted and missing < 0)

    async def _cancel_rest(self, writer: OutputWriter) -> None:
        """After the time limit, write the rest of a file as cancelled, unless an earlier run finished it.

        A pipe is not read further, as it may never end.
        """
        reason = f"batch_timeout={self._processor.batch_timeout:g} s was over"
        if not self._source.finite:
            say(f"{reason}: the rest of the input is not in the output")
            return
        index = self.report.total
        async for data in self._source.feed:
            shown = data.input_data if isinstance(data, Rejected) else data
            result = None if self._journal is None else self._journal.restore(index, data)
            if result is None:
                error = f"not started: {reason}"
                result = BatchResult(
                    index, shown, success=False, status="cancelled", error=error, error_type=_NOT_STARTED
                )
            await self._put(result, writer)
            index += 1

    def discard(self) -> None:
        """Close the files of a job that will not run."""
        self._source.close()
        self._outputs.discard()
