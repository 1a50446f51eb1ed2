"""Job of the demo: a sequential sample, then the batch, with telemetry served and results written."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any, Final

from flowrt._util.atomic_file import OutputFile
from flowrt.batch.processor import BatchProcessor
from flowrt.demo.airports import Airport
from flowrt.demo.enrich import EnrichAirport
from flowrt.engine.instrument import Instrument
from flowrt.errors import FlowrtError
from flowrt.model.json_lines import encode_result
from flowrt.reporting.report import BatchReport
from flowrt.runtime.runtime import Runtime
from flowrt.telemetry.options import Serving

__all__ = ["ITEM_TIMEOUT_S", "LOG_LEVEL", "SAMPLE_SIZE", "Demo"]

ITEM_TIMEOUT_S: Final = 2.0
SAMPLE_SIZE: Final = 40
LOG_LEVEL: Final = "ERROR"  # dozens of failures are intended: the summary counts them

_NAME: Final = "airports"

Callback = Callable[["Demo"], None]


class Demo:
    """Demo run: enriches airports once.

    Args:
        airports: The airports.
        service_url: URL of the service.
        output: File for the results; closed at the end.
        concurrency: Maximum number of items at once.
        serving: Options of the telemetry server; if its port is in use, a free one is taken.
        progress: Draw a progress bar.
        instruments: Additional instruments of the batch.
        compute: Runs the part that computes and returns its result; None leaves it out.

    Attributes:
        items: Input items in order.
        report: Totals so far.
        computed: Result of the part that computes, once it has run.
        metrics_url: URL of `/metrics` during the run.
        complete: True if every item has its line in the output.
        serving: True while the endpoints are kept up after a complete batch.
    """

    def __init__(
        self,
        airports: list[Airport],
        service_url: str,
        output: OutputFile,
        *,
        concurrency: int,
        serving: Serving,
        progress: bool = False,
        instruments: tuple[Instrument, ...] = (),
        compute: Callable[[Sequence[Airport]], Awaitable[object]] | None = None,
    ) -> None:
        self.items: list[dict[str, Any]] = [
            {key: value for key, value in asdict(airport).items() if key in ("iata", "name", "city", "country")}
            for airport in airports
        ]
        self.report = BatchReport(_NAME)
        self.metrics_url: str | None = None
        self.complete = False
        self.serving = False
        self.service_url = service_url
        self.output = output
        self.concurrency = concurrency
        self.metrics_port = serving.get("metrics_port", 0)
        self._serving = serving
        self._progress = progress
        self._instruments = instruments
        self._airports = airports
        self._compute = compute
        self.computed: object = None

    async def run(self, started: Callback, ended: Callback, *, serve: bool) -> None:
        """Measure the sample and run the batch while serving telemetry.

        Args:
            started: Called before the first item, when the endpoints are up.
            ended: Called after the last item, while the endpoints are still up.
            serve: Keep the endpoints up until the task is cancelled.

        Raises:
            FlowrtError: The metrics cannot be served.
            DiskFailedError: The output cannot be written.
        """
        async with AsyncExitStack() as stack:
            self.metrics_url = (await self._open_runtime(stack)).metrics_url
            node = await stack.enter_async_context(EnrichAirport(self.service_url))
            started(self)
            await self._run_batch(node)
            if self._compute is not None:
                self.computed = await self._compute(self._airports)
            self.complete = self.report.total == len(self.items) and not self.report.counts["cancelled"]
            self.output.close(complete=self.complete)
            ended(self)
            if serve and self.complete:
                self.serving = True
                await asyncio.Event().wait()

    async def _open_runtime(self, stack: AsyncExitStack) -> Runtime:
        """Open a runtime for the server, inside the runtime that provides the loop and the signals."""
        try:
            return await stack.enter_async_context(Runtime(**self._serving, log_level=LOG_LEVEL))
        except ValueError as exc:
            raise FlowrtError(str(exc)) from exc
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise FlowrtError(exc.strerror or str(exc)) from exc
            free_port: Serving = {**self._serving, "metrics_port": 0}
            return await stack.enter_async_context(Runtime(**free_port, log_level=LOG_LEVEL))

    async def _run_batch(self, node: EnrichAirport) -> None:
        """Run the sample and then all items, and write each item's line as it completes."""
        processor = BatchProcessor(
            node,
            self.concurrency,
            item_timeout=ITEM_TIMEOUT_S,
            speedup_sample=SAMPLE_SIZE,
            name=_NAME,
            instruments=self._instruments,
        )
        async with processor.batch_as_completed(self.items, progress=self._progress) as results:
            async for result in results:
                self.report.add(result)
                self.output.write(encode_result(result))
            batch = self.report.batch = results.batch
        if batch is not None:
            self.report.wall_time = (batch.finished_ns - batch.started_ns) / 1e9
