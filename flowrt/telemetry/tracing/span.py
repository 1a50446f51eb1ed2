"""Item span: an OpenTelemetry span that costs a fraction of the SDK's and exports the same data.

Data that the items of a batch share is kept once, in a `SpanFrame`. Data that few items have (attributes, events, links
and a status of their own) is kept in `Additions`, made at the first addition.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from flowrt.telemetry.tracing.attributes import frozen, set_all, set_one
from flowrt.telemetry.tracing.exceptions import describe_exception, shown
from flowrt.telemetry.tracing.ids import ids_to_ints
from flowrt.telemetry.tracing.span_frame import SpanFrame

__all__ = ["Additions", "ItemSpan"]

_log = logging.getLogger("flowrt.tracing")
_UNSET: Final = Status(StatusCode.UNSET)
_adding = threading.Lock()  # guards the first addition to a span, which worker threads may make concurrently


class Additions:
    """Data that was added to a span, within the span limits."""

    __slots__ = ("attributes", "counted", "events", "links", "name", "status")

    def __init__(self, span: ItemSpan) -> None:
        frame = span.frame
        limits = frame.limits
        self.name = frame.name
        self.attributes = BoundedAttributes(
            limits.max_span_attributes,
            span.own_attributes(),
            immutable=False,
            max_value_len=limits.max_span_attribute_length,
        )
        self.events: BoundedList[Event] = BoundedList(limits.max_events)
        self.links: BoundedList[Link] = BoundedList.from_seq(limits.max_links, frame.links)
        self.status = _UNSET
        self.counted = False  # True once the encoder has counted the parts that it left out


class ItemSpan(trace.Span, ReadableSpan):
    """Span of one item.

    It is a ReadableSpan of the SDK, so its properties can be read as those of an SDK span.

    Args:
        frame: Data shared with the batch's other spans.
        ids: Ids as `ids.py` encodes them: the trace id in the first 16 bytes, the span id in the last 8.
        index: The item's index in the input.
        start_ns: Start time on the batch's clock.

    Attributes:
        end_ns: End time on the batch's clock, or 0.
        wait_ns: The item's wait for its first attempt, in nanoseconds; -1 if it had none.
        delayed_ns: Time for which stalls of the loop delayed the item, in nanoseconds.
        attempts: Number of attempts.
    """

    __slots__ = ("additions", "attempts", "end_ns", "frame", "ids", "index", "start_ns", "wait_ns")

    # Rarely set, so they are no slots, which every item would have to fill: a span that needs one uses its `__dict__`.
    _context: SpanContext | None = None
    _instrumentation_info = None  # read by the base class's deprecated property
    delayed_ns: int = 0

    def __init__(self, frame: SpanFrame, ids: bytes, index: int, start_ns: int) -> None:
        self.frame = frame
        self.ids = ids
        self.index = index
        self.start_ns = start_ns
        self.end_ns = 0
        self.additions: Additions | None = None
        self.wait_ns: int  # set at the end, like `attempts`
        self.attempts: int

    @property
    def sampled(self) -> bool:
        """True if the span is exported, unless tail sampling discards it."""
        return self.frame.sampled

    # -- the API's span ---------------------------------------------------------------------------------------------

    def get_span_context(self) -> SpanContext:
        """Ids and flags, made at the first call."""
        context = self._context
        if context is None:
            frame = self.frame
            trace_id, span_id = ids_to_ints(self.ids)
            context = self._context = SpanContext(trace_id, span_id, False, frame.flags, frame.trace_state)
        return context

    def is_recording(self) -> bool:
        """True if additions are kept: the sampler wants the span recorded, and it has not ended."""
        return self.frame.recording and not self.end_ns

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set an attribute. An ended span logs a warning and ignores it."""
        if self._takes("an attribute"):
            set_one(self._added().attributes, key, value)

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set several attributes."""
        if self._takes("an attribute"):
            set_all(self._added().attributes, attributes)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event.

        Args:
            name: The event's name.
            attributes: The event's attributes.
            timestamp: Time of the event, in nanoseconds since 1970; now by default.
        """
        if self._takes("an event"):
            limits = self.frame.limits
            bounded = frozen(limits.max_event_attributes, attributes, limits.max_attribute_length)
            self._added().events.append(Event(name, bounded, timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Add a link to another span."""
        worth_it = context is not None and (context.is_valid or attributes or context.trace_state)
        if worth_it and self._takes("a link"):
            limits = self.frame.limits
            bounded = frozen(limits.max_link_attributes, attributes, limits.max_attribute_length)
            self._added().links.append(Link(context, bounded))

    def update_name(self, name: str) -> None:
        """Change the span's name."""
        if self._takes("a name"):
            self._added().name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status. OK is final; UNSET, and anything that is not a status, is ignored."""
        if not self._takes("a status"):
            return
        if isinstance(status, StatusCode):
            status = Status(status, description)
        elif not isinstance(status, Status):
            _log.warning("set_status is ignored: pass a Status or a StatusCode, not a %s", type(status).__name__)  # type: ignore[unreachable]  # by the types alone
            return
        elif description is not None:
            _log.warning("description %r is ignored: the Status object has its own", description)
        if status.description and self.frame.redact is not None:
            status = Status(status.status_code, shown(status.description, self.frame.redact))
        self.set_shown_status(status)

    def set_shown_status(self, status: Status) -> None:
        """Set a status whose description is redacted already.

        Args:
            status: The status.
        """
        additions = self._added()
        if status.status_code is not StatusCode.UNSET and additions.status.status_code is not StatusCode.OK:
            additions.status = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an event for an exception, with its stack trace."""
        event = {**describe_exception(exception, self.frame.redact, escaped=escaped), **(attributes or {})}
        self.add_event("exception", event, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End the span before its item ends. Later additions are ignored.

        Args:
            end_time: End time in nanoseconds since 1970; now by default.
        """
        if self.end_ns:
            _log.warning("the span has ended already: this call of end() is ignored")
            return
        self._fix()
        self.end_ns = (time.time_ns() if end_time is None else end_time) - self.frame.offset_ns
        if self.frame.sampled:
            self.frame.hand_over(self)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if exc_val is not None and self.is_recording():
            self.record_exception(exc_val, escaped=True)
            self.set_status(Status(StatusCode.ERROR, f"{type(exc_val).__name__}: {exc_val}"))
        super().__exit__(exc_type, exc_val, exc_tb)

    # -- the SDK's readable span -------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The span's name."""
        return self.frame.name if self.additions is None else self.additions.name

    @property
    def context(self) -> SpanContext:
        """Ids and flags."""
        return self.get_span_context()

    @property
    def kind(self) -> SpanKind:
        """INTERNAL."""
        return SpanKind.INTERNAL

    @property
    def parent(self) -> SpanContext | None:
        """The batch span's context, if this span is its child."""
        return self.frame.parent

    @property
    def start_time(self) -> int:
        """Start time, in nanoseconds since 1970."""
        return self.start_ns + self.frame.offset_ns

    @property
    def end_time(self) -> int | None:
        """End time, in nanoseconds since 1970; None before the end."""
        return self.end_ns + self.frame.offset_ns if self.end_ns else None

    @property
    def status(self) -> Status:
        """The status so far."""
        return _UNSET if self.additions is None else self.additions.status

    @property
    def attributes(self) -> Mapping[str, Any]:
        """A read-only view of the attributes so far."""
        return MappingProxyType(self._added().attributes)

    @property
    def dropped_attributes(self) -> int:
        """Number of attributes over the limit, or that could not be converted."""
        return self._added().attributes.dropped

    @property
    def dropped_events(self) -> int:
        """Number of events over the limit."""
        return 0 if self.additions is None else self.additions.events.dropped

    @property
    def dropped_links(self) -> int:
        """Number of links over the limit."""
        return self._added().links.dropped

    @property
    def events(self) -> tuple[Event, ...]:
        """The events so far."""
        return () if self.additions is None else tuple(self.additions.events)

    @property
    def links(self) -> tuple[Link, ...]:
        """The links so far."""
        return self.frame.links if self.additions is None else tuple(self.additions.links)

    @property
    def resource(self) -> Resource:
        """The provider's resource."""
        return self.frame.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        """The tracer's instrumentation scope."""
        return self.frame.scope

    def to_json(self, indent: int | None = 4) -> str:
        """Encode the span as an SDK span does.

        Args:
            indent: Indentation, as for `json.dumps`.
        """
        encoded: str = self.readable().to_json(indent)
        return encoded

    def readable(self) -> ReadableSpan:
        """A copy as an SDK span, for the SDK's exporters."""
        additions = self.additions or (self.complete() if self.end_ns else self._added())
        return ReadableSpan(
            name=additions.name,
            context=self.get_span_context(),
            parent=self.parent,
            resource=self.resource,
            attributes=additions.attributes,
            events=additions.events,
            links=additions.links,
            kind=self.kind,
            status=additions.status,
            start_time=self.start_time,
            end_time=self.end_time,
            instrumentation_scope=self.frame.scope,
        )

    def own_attributes(self) -> dict[str, Any]:
        """Attributes at the start."""
        attributes = {**self.frame.attributes, "flowrt.item.index": self.index}
        if self.frame.prompt and getattr(self, "wait_ns", 0) >= 0:  # not set before the end
            attributes["flowrt.item.queue_wait"] = 0.0
        return attributes

    def complete(self) -> Additions:
        """Add the attributes that are known at the item's end, and return the additions. Called once."""
        additions = self._added()
        if self.attempts > 1:
            additions.attributes["flowrt.item.attempts"] = self.attempts
        if self.wait_ns >= 0 and not self.frame.prompt:
            additions.attributes["flowrt.item.queue_wait"] = self.wait_ns / 1e9
        if self.delayed_ns:
            additions.attributes["flowrt.item.held"] = self.delayed_ns / 1e9
        return additions

    # -- within -----------------------------------------------------------------------------------------------------

    def _fix(self) -> None:
        """Keep a span that its node ends from being encoded as a plain one, with the item's later outcome."""
        if self.frame.recording:
            self._added()

    def _takes(self, what: str) -> bool:
        if self.end_ns:
            _log.warning("%s cannot be set: the span has ended", what)
            return False
        return self.frame.recording

    def _added(self) -> Additions:
        additions = self.additions
        if additions is None:
            with _adding:
                additions = self.additions
                if additions is None:
                    additions = self.additions = Additions(self)
        return additions

    def __repr__(self) -> str:
        return f"<ItemSpan {self.name!r} of item {self.index}, {self.ids[-8:].hex()}>"
