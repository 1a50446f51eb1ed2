"""Log events over OTLP by the OpenTelemetry SDK's own exporter, beside the lines on stderr."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from flowrt.telemetry.logs.formatting import plain_value
from flowrt.telemetry.otlp.sdk_exporters import make_sdk_exporter

__all__ = ["LogsExport"]

_SEVERITIES: Final = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}
_ELSEWHERE: Final = ("event", "level", "timestamp", "trace_id", "span_id")  # fields of a record itself
_EXPORTERS: Final = ("opentelemetry", "urllib3", "requests", "grpc")  # events about the export would feed it


class LogsExport:
    """Structlog processor that exports each event and returns it unchanged.

    Args:
        resource: The OpenTelemetry resource of the events.
        endpoint: The collector's base URL; None to take it from the environment.

    Raises:
        MissingExtraError: The exporter is not installed.
    """

    def __init__(self, resource: Resource, endpoint: str | None = None) -> None:
        exporter = make_sdk_exporter("logs", endpoint)
        self._provider = LoggerProvider(resource, shutdown_on_exit=False)
        self._provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        self._logger = self._provider.get_logger("flowrt")

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Export an event."""
        if not str(event.get("logger", "")).startswith(_EXPORTERS):
            level = str(event.get("level", "info"))
            attributes = {
                key: plain_value(value)
                for key, value in event.items()
                if key not in _ELSEWHERE and not key.startswith("_") and value is not None
            }
            self._logger.emit(
                timestamp=time.time_ns(),
                context=_context_of(event),
                severity_number=_SEVERITIES.get(level, SeverityNumber.INFO),
                severity_text=level.upper(),
                body=str(event.get("event", "")),
                attributes=attributes,
            )
        return event

    def close(self, timeout_s: float) -> None:
        """Export the waiting events, and end.

        Args:
            timeout_s: Longest wait for the collector, in seconds.
        """
        self._provider.force_flush(round(timeout_s * 1_000))
        self._provider.shutdown()


def _context_of(event: MutableMapping[str, Any]) -> Context | None:
    """The context of the span that an event names; None for the current one."""
    try:
        ids = int(event["trace_id"], 16), int(event["span_id"], 16)
    except (KeyError, TypeError, ValueError):
        return None
    span = trace.SpanContext(*ids, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED))
    return trace.set_span_in_context(trace.NonRecordingSpan(span), Context())
