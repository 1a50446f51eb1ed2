"""Telemetry of a worker: the context of the item's span, and a pipeline for spans made in the node."""

from __future__ import annotations

import atexit
import threading
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from flowrt.telemetry.logs.setup import LogSetup
from flowrt.telemetry.tracing.setup import TraceSetup

__all__ = ["attach", "close_logs", "detach", "flush", "set_up"]

_FLUSH_S = 1.0
_traces: list[TraceSetup] = []
_logs: list[LogSetup] = []
detach = context.detach


def set_up(settings: dict[str, Any]) -> None:
    """Log and trace as the driver does, once."""
    if not _traces:
        if "log_level" in settings:
            of_process = settings.get("log_level_of_process")
            _logs.append(LogSetup("json", settings["log_level"], of_process=of_process))
            atexit.register(close_logs)
        if "otlp_endpoint" in settings:
            _traces.append(TraceSetup(settings["service_name"], settings["otlp_endpoint"]))
            atexit.register(_traces[0].close, _FLUSH_S)


def attach(ids: bytes) -> Any:
    """Make the item's span, which the driver owns, the current span; returns the token for `detach`."""
    trace_id, span_id = int.from_bytes(ids[:16], "big"), int.from_bytes(ids[16:24], "big")
    span_context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(ids[24]))
    return context.attach(trace.set_span_in_context(NonRecordingSpan(span_context)))


def close_logs() -> None:
    """Write the queued lines; later lines are written at once."""
    for logs in _logs:
        logs.close(_FLUSH_S)


def flush() -> None:
    """Export the waiting spans in a thread, at the end of a batch."""
    for traces in _traces:
        if traces.pipeline is not None:
            threading.Thread(target=traces.pipeline.force_flush, name="flowrt-flush", daemon=True).start()
