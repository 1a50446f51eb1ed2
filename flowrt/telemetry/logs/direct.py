"""Fast path from flowrt's events to the log lines of a Runtime, without structlog's loggers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import structlog
from opentelemetry import trace

from flowrt.model import BatchRecord
from flowrt.telemetry.logs.formatting import json_line, utc_now
from flowrt.telemetry.tracing.context import SPAN_KEY, get_current

__all__ = ["DIRECT", "LEVELS", "DirectLog", "add_trace_ids"]

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
"""Number of each level."""

_RENDERED: Final = frozenset({"exc_info", "stack_info"})  # fields that structlog's processors replace by others


class DirectLog:
    """Fast path from events to the log lines of a Runtime: structlog's processors without a bound logger.

    A service logs two events for each small batch, and structlog's bound loggers would take most of their cost.

    Args:
        processors: The processors that structlog was configured with.
        least: Number of the lowest level that is logged.
        write: Writes a line.
        as_json: True if these are exactly `LogSetup`'s processors for JSON, which one step can replace.

    Attributes:
        least: Number of the lowest level that is logged.
    """

    def __init__(self, processors: Any, least: int, write: Callable[[str], None], *, as_json: bool = False) -> None:
        self.least = least
        self._processors = processors
        self._write = write
        self._as_json = as_json

    def is_in_force(self) -> bool:
        """True unless the application has configured structlog anew."""
        return structlog.get_config()["processors"] is self._processors

    def log(self, level: str, event: Any) -> None:
        """Log one event.

        Args:
            level: `debug`, `info`, `warning` or `error`.
            event: The event and its fields.
        """
        if self.least > LEVELS[level]:
            return
        if _RENDERED.isdisjoint(event) and self._is_plain:
            self._write(_json_line_of(level, event))
        else:
            for process in self._processors:
                event = process(None, level, event)
            self._write(event)

    def log_text(self, level: str, event: str, fields_of: Callable[[BatchRecord], str], batch: BatchRecord) -> bool:
        """Log an event of a batch in one step, if lines are JSON; else return False.

        Args:
            level: `debug`, `info`, `warning` or `error`.
            event: The event's name, which has no characters to escape.
            fields_of: Returns the event's fields as JSON, without braces.
            batch: The batch's record.
        """
        if self.least > LEVELS[level]:
            return True
        if not self._is_plain:
            return False
        ids = "".join([f', "{key}": "{value}"' for key, value in _trace_ids().items()])
        head = f'{{"timestamp": "{utc_now()}", "level": "{level}", "event": "{event}", '
        self._write(f"{head}{fields_of(batch)}{ids}}}")
        return True

    @property
    def _is_plain(self) -> bool:
        """True if lines are JSON and no context variable was ever bound."""
        return self._as_json and not getattr(structlog.contextvars, "_CONTEXT_VARS", True)


def _json_line_of(level: str, event: dict[str, Any]) -> str:
    """Return the line of an event without an exception or a stack, as `LogSetup`'s processors would make it."""
    timestamp = utc_now()
    ordered = {"timestamp": timestamp, "level": level, "event": None, **event}
    if "timestamp" in event or "level" in event:  # of a worker's own event
        ordered |= {"timestamp": timestamp, "level": level}
    return json_line(None, level, add_trace_ids(None, level, ordered))


DIRECT: Final[list[DirectLog]] = []
"""The fast path of the Runtime that has configured logging; empty without one."""


def add_trace_ids(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Structlog processor: adds the ids of the current span, unless the event has its own."""
    if "trace_id" not in event:
        event |= _trace_ids()
    return event


def _trace_ids() -> dict[str, str]:
    """Return the ids of the current span as fields; empty without a span, as mostly when a batch starts."""
    span = get_current().get(SPAN_KEY)
    if isinstance(span, trace.Span):
        context = span.get_span_context()
        if context.is_valid:
            trace_id, span_id = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
            return {"trace_id": trace_id.hex(), "span_id": span_id.hex()}  # formatting an integer takes far longer
    return {}
