"""Exceptions on spans: the attributes of their events, with redacted texts."""

from __future__ import annotations

import traceback
from copy import copy
from typing import Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Status, StatusCode

from flowrt._util.labels import clean
from flowrt.model import ItemRecord
from flowrt.telemetry.redaction import Redact, shorten

__all__ = ["describe_exception", "redacted_span", "set_failed", "shown"]

_MAX_CHARS: Final = 65_536  # of a redacted text: redacting a megabyte would hold the loop for 50 ms
_MARGIN_CHARS: Final = 1_024  # redacted too, so that a secret at the cut is recognized
_TEXTS: Final = ("exception.message", "exception.stacktrace")
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


def redacted_span(span: ReadableSpan, redact: Redact, most_chars: int | None) -> ReadableSpan:
    """Return an SDK span without secrets in its exceptions and its status; the span itself if it has none.

    The span of the SDK stays as it is: other processors have it, too.

    Args:
        span: The ended span.
        redact: Removes secrets from texts; it must not raise.
        most_chars: Length limit of an attribute, if there is one.
    """
    status, events = span.status, list(span.events)
    if status.description:
        status = Status(status.status_code, shown(status.description, redact))
    for place, event in enumerate(events):
        changed = {
            key: text
            for key, value in (event.attributes or {}).items()
            if key in _TEXTS and isinstance(value, str) and (text := shown(value, redact)) != value
        }
        if changed:
            attributes = BoundedAttributes(None, {**event.attributes, **changed}, max_value_len=most_chars)  # type: ignore[dict-item]  # it has some
            attributes.dropped = event.dropped_attributes
            events[place] = Event(event.name, attributes, event.timestamp)
    same = all(event is before for event, before in zip(events, span.events, strict=True))
    if same and status.description == span.status.description:
        return span
    twin = copy(span)
    kept: BoundedList[Event] = BoundedList.from_seq(max(1, len(events)), events)
    kept.dropped = span.dropped_events
    twin._events, twin._status = kept, status  # noqa: SLF001  # the SDK has no public way to change a span
    return twin
