"""Export of spans from a thread, with every span accounted for and an exit that nobody can delay.

The SDK's own batch processor forgets what it drops, and its `shutdown` waits for the collector as long as that likes.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from flowrt.telemetry.metrics import METRICS, DropReason
from flowrt.telemetry.span import ItemSpan

__all__ = ["SpanQueue"]

_NEVER_EXPORT_ITSELF: Final = otel_context._SUPPRESS_INSTRUMENTATION_KEY  # noqa: SLF001  # the API has no public name
_LAST_WORDS_S: Final = 0.2


class SpanQueue(SpanProcessor):
    """Hands finished spans to an exporter, in batches, from a daemon thread.

    `ended == exported + sum(dropped.values()) + what is still queued`, exactly, at any time.

    Args:
        exporter: Called from the thread only.
        most_spans: How many spans may wait; further ones are dropped and counted.
        batch_spans: How many are exported at once.
        delay_s: How long a span waits for others, in seconds.

    Attributes:
        ended: Sampled spans that ended.
        exported: Spans that the exporter took.
        dropped: Spans that are lost, by reason.
    """

    def __init__(
        self, exporter: SpanExporter, *, most_spans: int = 16_384, batch_spans: int = 512, delay_s: float = 1.0
    ) -> None:
        self.ended = 0
        self.exported = 0
        self.dropped: dict[DropReason, int] = {"queue_full": 0, "export_error": 0, "shutdown": 0}
        self._exporter = exporter
        self._most_spans = most_spans
        self._batch_spans = min(batch_spans, most_spans)
        self._delay_s = delay_s
        self._waiting: deque[ReadableSpan] = deque()
        self._closed = False
        self._reset()
        if hasattr(os, "register_at_fork"):
            method = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (again := method()) and again())

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._under_way = 0
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flowrt-spans", daemon=True)
        self._thread.start()

    def _after_fork(self) -> None:
        """In a forked child: what waits is the parent's to export."""
        self._waiting.clear()
        self.ended = self.exported = 0
        self.dropped = dict.fromkeys(self.dropped, 0)
        if not self._closed:
            self._reset()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: spans are exported when they end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span, or count it as dropped."""
        span_context = span.context
        if span_context is None or not span_context.trace_flags.sampled:
            return
        with self._lock:
            self.ended += 1
            if self._closed:
                self._drop("shutdown", 1)
                return
            if len(self._waiting) >= self._most_spans:
                self._drop("queue_full", 1)
                return
            self._waiting.append(span)
            full = len(self._waiting) >= self._batch_spans
        if full and not self._wake.is_set():
            self._wake.set()

    def put(self, span: ItemSpan | ReadableSpan) -> None:
        """As `on_end`, for either kind of span."""
        self.on_end(span.readable() if isinstance(span, ItemSpan) else span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what waits now.

        Args:
            timeout_millis: How long to wait at most, in milliseconds.

        Returns:
            Whether nothing waits any more.
        """
        deadline = time.monotonic() + timeout_millis / 1_000
        while (self._waiting or self._under_way) and not self._closed:
            self._wake.set()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return not self._waiting

    def close(self, timeout_s: float) -> None:
        """Export what waits and stop; what is left when the time is over is dropped and counted.

        Args:
            timeout_s: How long to wait at most, in seconds.
        """
        self.force_flush(int(timeout_s * 1_000))
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._drop("shutdown", len(self._waiting) + self._under_way)
            self._waiting.clear()
            self._under_way = 0
        self._wake.set()
        # An exporter that retries is told to give up, and has a moment to log it while logging is still set up; the
        # threads are daemons, so one that hangs holds nobody.
        threading.Thread(target=self._exporter.shutdown, name="flowrt-spans-stop", daemon=True).start()
        self._thread.join(_LAST_WORDS_S)

    def shutdown(self) -> None:
        """Export what waits and stop, within the SDK's own 30 seconds."""
        self.close(30.0)

    def _drop(self, reason: DropReason, count: int) -> None:
        if count:
            self.dropped[reason] += count
            METRICS.dropped("spans", reason, count)

    def _run(self) -> None:
        with _unobserved():
            while not self._closed:
                self._wake.wait(self._delay_s)
                self._wake.clear()
                while self._waiting and not self._closed:
                    self._export_batch()

    def _export_batch(self) -> None:
        with self._lock:
            size = min(self._batch_spans, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            self._under_way = size
        try:
            taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:  # an exporter must not raise; one that does has not exported
            taken = False
        with self._lock:
            if self._closed:  # too late: these are counted as dropped
                return
            self._under_way = 0
            if taken:
                self.exported += size
            else:
                self._drop("export_error", size)


@contextmanager
def _unobserved() -> Iterator[None]:
    """Keep an instrumented HTTP client from tracing the export of traces."""
    token = otel_context.attach(otel_context.set_value(_NEVER_EXPORT_ITSELF, True))
    try:
        yield
    finally:
        otel_context.detach(token)
