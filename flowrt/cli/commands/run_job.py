"""The work of `flowrt run`: items in, results counted and written, and what became of it all."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from flowrt.batch.processor import BatchProcessor
from flowrt.cli.exit_codes import ALL_OK, SOME_FAILED, CommandError, say
from flowrt.cli.io.output_files import Target
from flowrt.cli.io.prefetch import SizedPrefetcher
from flowrt.cli.io.readers import Input
from flowrt.cli.io.writer_thread import OutputWriter
from flowrt.errors import JournalError
from flowrt.journal import Journal
from flowrt.model import BatchResult, Rejected
from flowrt.model.json_lines import encode_result
from flowrt.reporting.report import BatchReport

__all__ = ["Job"]

_NOT_STARTED: Final = "CancelledError"


class Job:
    """Runs a processor over an input into an output, once.

    Args:
        processor: What runs the items.
        source: Where they come from; closed at the end.
        target: Where results go; closed at the end.
        progress: Whether to draw a progress bar.
        journal: The processor's journal, which whoever opened it closes.

    Attributes:
        report: The totals so far.
        started: `run` has begun.
        over: `run` has ended in order; `report` is whole.
        complete: Every item of the input has its line in the output.
        on_start: Called when `run` begins.
    """

    def __init__(
        self,
        processor: BatchProcessor,
        source: Input,
        target: Target,
        *,
        progress: bool,
        journal: Journal | None = None,
    ) -> None:
        self.report = BatchReport(processor.name)
        self.started = False
        self.over = False
        self.complete = False
        self.on_start: Callable[[], None] = lambda: None
        self._processor = processor
        self._source = source
        self._target = target
        self._progress = progress
        self._journal = journal

    @property
    def exit_code(self) -> int:
        """0 where every item of the input ended ok."""
        return ALL_OK if self.complete and not self.report.failed else SOME_FAILED

    async def run(self) -> None:
        """Read, run, write.

        Raises:
            CommandError: The input turned out to be unreadable, or the disk failed.
            OutputClosedError: Nobody reads standard output any more.
        """
        self.started = True
        self.on_start()
        began = time.perf_counter()
        writer = OutputWriter(self._target)
        try:
            await self._stream(writer)
            if self._timed_out(time.perf_counter() - began):
                await self._cancel_rest(writer)
            self.complete = self._is_complete()
            feed = self._source.feed
            if not self.complete and isinstance(feed, SizedPrefetcher) and feed.exhausted:
                say(
                    f"the input had {len(feed):,} items when it was opened and {self.report.total:,} came: run it again"
                )
        finally:
            self.report.wall_time = time.perf_counter() - began
            await self._source.feed.close()
            if self._source.feed.ended:
                self._source.close()
            await writer.close(complete=self.complete)
        self.over = True

    async def _stream(self, writer: OutputWriter) -> None:
        """Write every result as its item is done."""
        async with self._processor.batch_as_completed(self._source.feed, progress=self._progress) as results:
            while True:
                try:
                    result = await anext(results)
                except StopAsyncIteration:
                    self.report.batch = results.batch
                    return
                except (CommandError, JournalError):  # the input's own, the journal's
                    raise
                except Exception:
                    if self._processor.continue_on_error or not self.report.failed:
                        raise
                    say(f"stopped at the first failure, as --fail-fast asks: {self._first_failure}")
                    return
                await self._put(result, writer)

    async def _put(self, result: BatchResult, writer: OutputWriter) -> None:
        if not result.success and not self.report.failed:
            self._first_failure = f"item {result.index}: {result.error}"
        self.report.add(result)
        # the output of a run that was resumed says the same as that of one that was not
        await writer.write(encode_result(result.replace(status="ok") if result.status == "resumed" else result))

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
        """The time is over: what a file still holds ends as cancelled, unless an earlier run finished it.

        A pipe might go on for ever.
        """
        left = f"batch_timeout={self._processor.batch_timeout:g} s was over"
        if not self._source.rereadable:
            say(f"{left}: what was not read by then is not in the output")
            return
        index = self.report.total
        async for data in self._source.feed:
            shown = data.input_data if isinstance(data, Rejected) else data
            result = None if self._journal is None else self._journal.restore(index, data)
            if result is None:
                error = f"not started: {left}"
                result = BatchResult(
                    index, shown, success=False, status="cancelled", error=error, error_type=_NOT_STARTED
                )
            await self._put(result, writer)
            index += 1

    def discard(self) -> None:
        """Undo what was opened: `run` will never begin."""
        self._source.close()
        self._target.abandon()
        self._target.close()
