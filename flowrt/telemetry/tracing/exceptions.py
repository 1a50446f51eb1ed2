"""Exceptions on spans: the attributes of their events, with redacted texts."""

from __future__ import annotations

import traceback
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from flowrt._util.labels import clean
from flowrt.model import ItemRecord
from flowrt.telemetry.redaction import Redact, shorten

__all__ = ["TEXTS", "describe_exception", "set_failed", "shown"]

_MAX_CHARS: Final = 65_536  # of a redacted text: redacting a megabyte would hold the loop for 50 ms
_MARGIN_CHARS: Final = 1_024  # redacted too, so that a secret at the cut is recognized
TEXTS: Final = ("exception.message", "exception.stacktrace")
"""Attributes of an exception event that are redacted."""

_PLAIN_RECORDERS: Final = ("opentelemetry.sdk.trace", "flowrt.telemetry.tracing.span")
"""Modules whose `record_exception` only adds an event."""


def describe_exception(
    exception: BaseException, redact: Redact | None = None, *, escaped: bool = False
) -> dict[str, str]:
    """Attributes of the event for an exception, as the SDK names them.

    Args:
        exception: The exception.
        redact: Removes secrets from its texts.
        escaped: True if the exception leaves the span's scope.
    """
    kind = type(exception)
    module = "" if kind.__module__ in (None, "builtins") else kind.__module__
    message, stack = str(exception), "".join(traceback.format_exception(exception))
    return {
        "exception.type": f"{module}.{kind.__qualname__}" if module else kind.__qualname__,
        "exception.message": message if redact is None else shown(message, redact),
        "exception.stacktrace": stack if redact is None else shown(stack, redact),
        "exception.escaped": str(escaped),
    }


def set_failed(span: trace.Span, item: ItemRecord, redact: Redact) -> None:
    """Set an item's error on a span: `error.type`, the status and the exception event.

    Args:
        span: The span, which is recording.
        item: The item, which has failed.
        redact: Removes secrets from the error's texts; it must not raise.
    """
    span.set_attribute("error.type", clean(item.error_type or "unknown"))
    set_status = getattr(span, "set_shown_status", span.set_status)  # ours would redact once more
    set_status(Status(StatusCode.ERROR, shown(item.error or "", redact)))
    if item.exception is not None:
        try:
            event = describe_exception(item.exception, redact)
        except Exception:  # an exception whose methods raise: its type and message are on the span already
            span.add_event("exception", {"exception.type": clean(item.error_type or "unknown")})
            return
        if type(span).record_exception.__module__ in _PLAIN_RECORDERS:
            span.add_event("exception", event)  # the SDK's method would format the stack once more
        else:  # a vendor's may do more, such as setting tags of its own
            span.record_exception(item.exception, event)


def shown(text: str, redact: Redact) -> str:
    """Return a text without secrets, and not longer than a span needs."""
    return shorten(redact(text[: _MAX_CHARS + _MARGIN_CHARS]), _MAX_CHARS)
