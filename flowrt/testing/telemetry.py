"""Telemetry captured in memory: spans, metrics and log events of the batches in a block."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from flowrt.model import STATUSES, BatchResult
from flowrt.telemetry.logs.events import renew_allowances

__all__ = ["CapturedTelemetry", "capture_telemetry"]

_COMPLETED: Final = "item.completed"
_TERMINAL: Final = (_COMPLETED, "item.failed", "item.timed_out")
_ALWAYS_LOGGED: Final = ("failed", "timed_out")
_ALL_LOGGED: Final = 20  # so many warnings of one kind are logged at once; more are thinned out

_Series = tuple[str, tuple[tuple[str, str], ...]]


class CapturedTelemetry:
    """Spans, metrics and log events since the capture began.

    Attributes:
        events: Log events in order, each a dict with `event`, `level` and its fields.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._exporter = InMemorySpanExporter()
        self._before = _scrape()

    @property
    def spans(self) -> list[ReadableSpan]:
        """All ended spans, in order of their end."""
        return list(self._exporter.get_finished_spans())

    @property
    def item_spans(self) -> list[ReadableSpan]:
        """Ended spans of items."""
        return [span for span in self.spans if "flowrt.item.index" in (span.attributes or {}) and _is_item(span)]

    def span_of(self, result: BatchResult) -> ReadableSpan:
        """Return the span of an item.

        Raises:
            AssertionError: It has no ended span.
        """
        for span in self.item_spans:
            if f"{span.context.span_id:016x}" == result.span_id:
                return span
        raise AssertionError(f"item {result.index} has no ended span; its span_id is {result.span_id}")

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric's value: a counter's increase since the capture began, a gauge's value now.

        Args:
            name: Name of a sample, `flowrt_items_total` for instance.
            labels: Labels to match; series that differ in others are added up. No such series is 0.
        """
        cumulative = name.endswith(("_total", "_count", "_sum", "_bucket"))
        return sum(
            value - (self._before.get(series, 0.0) if cumulative else 0.0)
            for series, value in _scrape().items()
            if series[0] == name and labels.items() <= dict(series[1]).items()
        )

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the log events of a name that have these fields."""
        return [each for each in self.events if each["event"] == event and fields.items() <= each.items()]

    def assert_counted(self, expected: float, name: str, **labels: str) -> None:
        """Assert a metric's value; see `metric`.

        Raises:
            AssertionError: It has another value.
        """
        found = self.metric(name, **labels)
        assert found == expected, f"{name}{labels} is {found:g}, not {expected:g}"  # noqa: S101

    def assert_logged(self, event: str, *, times: int = 1, **fields: Any) -> None:
        """Assert that an event was logged with these fields, so many times.

        Raises:
            AssertionError: It was not; the message lists the names of all events.
        """
        found = len(self.logged(event, **fields))
        names = dict(Counter(each["event"] for each in self.events))
        assert found == times, f"{event} with {fields} was logged {found} times, not {times}; logged: {names}"  # noqa: S101

    def assert_agrees_with(self, results: Iterable[BatchResult], *, batch: str | None = None) -> None:
        """Assert that counters, item spans and log events report each result once, as it ended.

        Items that did not fail have log events only with `Telemetry(item_events=True)`. If there is one such event, all
        results must have one.

        Args:
            results: All results since the capture began.
            batch: Only telemetry of the batches of this name.

        Raises:
            AssertionError: They disagree.
        """
        kept = list(results)
        statuses = Counter(result.status for result in kept)
        labels = {} if batch is None else {"batch": batch}
        counted = {status: int(self.metric("flowrt_items_total", status=status, **labels)) for status in STATUSES}
        assert counted == {s: statuses[s] for s in STATUSES}, f"results {dict(statuses)}, counters {counted}"  # noqa: S101
        spans = [s for s in self.item_spans if batch is None or (s.attributes or {})["flowrt.batch.name"] == batch]
        traced = Counter((span.attributes or {}).get("error.type") for span in spans)
        errors = Counter(result.error_type for result in kept)
        assert traced == errors, f"error types of results {dict(errors)}, of item spans {dict(traced)}"  # noqa: S101
        if max(statuses["failed"], statuses["timed_out"]) <= _ALL_LOGGED:
            terminal = [
                each
                for each in self.events
                if each["event"] in _TERMINAL and (batch is None or each.get("batch") == batch)
            ]
            every_item = any(each["event"] == _COMPLETED for each in terminal)
            compared = STATUSES if every_item else _ALWAYS_LOGGED
            logged = Counter(each["status"] for each in terminal if each["status"] in compared)
            statuses = Counter({status: statuses[status] for status in compared})
            assert logged == statuses, f"results {dict(statuses)}, log events {dict(logged)}"  # noqa: S101


@contextlib.contextmanager
def capture_telemetry() -> Iterator[CapturedTelemetry]:
    """Capture the telemetry of the batches in a block; afterwards everything is as it was.

    In the block, spans go to a tracer provider of its own and all structlog events are captured, the application's
    too. OpenTelemetry has no public way to replace a provider, so its private variable is set.

    Example:
        >>> import asyncio, flowrt
        >>> async def double(x):
        ...     return 2 * x
        >>> with capture_telemetry() as telemetry:
        ...     results = asyncio.run(flowrt.map(double, [1, 2, 3]))
        >>> telemetry.assert_counted(3, "flowrt_items_total", status="ok")
        >>> telemetry.span_of(results[0]).name
        'process double'
    """
    captured = CapturedTelemetry()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(captured._exporter))  # noqa: SLF001  # ours
    renew_allowances()  # tests before this one may have used them up
    provider_before = trace._TRACER_PROVIDER  # noqa: SLF001  # see the docstring
    logging_before = structlog.get_config() if structlog.is_configured() else None

    def keep(_logger: object, method: str, event: Any) -> Any:
        captured.events.append({**event, "level": method})
        raise structlog.DropEvent

    trace._TRACER_PROVIDER = provider  # noqa: SLF001
    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        cache_logger_on_first_use=False,
    )
    try:
        yield captured
    finally:
        trace._TRACER_PROVIDER = provider_before  # noqa: SLF001
        if logging_before is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**logging_before)
        provider.shutdown()


def _is_item(span: ReadableSpan) -> bool:
    """True for an item's span; spans of single attempts have an attempt's number too."""
    return "flowrt.attempt.number" not in (span.attributes or {})


def _scrape() -> dict[_Series, float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        if family.name.startswith("flowrt_")
        for sample in family.samples
    }
