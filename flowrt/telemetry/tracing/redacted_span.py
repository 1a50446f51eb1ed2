"""SDK spans without secrets in their exceptions. Apart from `exceptions`, since it imports the SDK."""

from __future__ import annotations

from copy import copy

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Status

from flowrt.telemetry.redaction import Redact
from flowrt.telemetry.tracing.exceptions import TEXTS, shown

__all__ = ["redacted_span"]


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
            if key in TEXTS and isinstance(value, str) and (text := shown(value, redact)) != value
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
