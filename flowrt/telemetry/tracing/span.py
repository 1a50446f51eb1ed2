"""The item span: an OpenTelemetry span that costs a fraction of the SDK's and says the same.

What all items of a batch have in common is kept once, in a `SpanFrame`. What nearly no item has (attributes, events,
links and a status of its own) is kept in `Additions`, made when somebody first adds something.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from flowrt._version import __version__
from flowrt.telemetry.tracing.ids import numbers_of

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["SCOPE", "Additions", "ItemSpan", "SpanFrame"]

SCOPE: Final = InstrumentationScope("flowrt", __version__)
"""The tracer that item spans come from."""

_log = logging.getLogger("flowrt.tracing")
_UNSET: Final = Status(StatusCode.UNSET)
_adding = threading.Lock()  # for the first addition to a span, which code in a worker thread may make


class SpanFrame:
    """What the item spans of a batch have in common.

    Args:
        name: Their name.
        resource: What the provider describes.
        scope: The tracer that they come from.
        limits: The provider's span limits.
        attributes: What every one has, before its index.
        links: What every one links to.
        parent: The batch span's context, where they are its children.
        flags: Their trace flags.
        trace_state: What the sampler gave.
        recording: Whether the sampler wants them recorded.
        offset_ns: Nanoseconds from the batch's clock to 1970.
        prompt: Whether an item that starts does so at once, so that its queue wait is known from the beginning.
        hand_over: Takes every sampled span that has ended.

    Attributes:
        swift: Whether `hand_over` takes every span that has ended, with nothing else to decide.
        template: The encoder's own handle.
        append: Takes a `PlainSpan` for a span that is one; None where that is not wanted.
    """

    __slots__ = (
        "append",
        "attributes",
        "flags",
        "hand_over",
        "limits",
        "links",
        "name",
        "offset_ns",
        "parent",
        "prompt",
        "recording",
        "resource",
        "sampled",
        "scope",
        "swift",
        "template",
        "trace_state",
    )

    def __init__(
        self,
        *,
        name: str,
        resource: Resource,
        scope: InstrumentationScope,
        limits: SpanLimits,
        attributes: Mapping[str, AttributeValue],
        links: tuple[Link, ...],
        parent: SpanContext | None,
        flags: TraceFlags,
        trace_state: TraceState,
        recording: bool,
        offset_ns: int,
        hand_over: Callable[[Any], None],
        prompt: bool = False,
    ) -> None:
        self.name = name
        self.resource = resource
        self.scope = scope
        self.limits = limits
        self.attributes = attributes
        self.links = links
        self.parent = parent
        self.flags = flags
        self.trace_state = trace_state
        self.recording = recording
        self.sampled = flags.sampled
        self.offset_ns = offset_ns
        self.hand_over = hand_over
        self.prompt = prompt
        self.swift = False
        self.template: Any = None
        self.append: Callable[[Any], None] | None = None


class Additions:
    """What somebody added to a span, within the limits."""

    __slots__ = ("attributes", "events", "links", "name", "status")

    def __init__(self, span: ItemSpan) -> None:
        frame = span.frame
        limits = frame.limits
        self.name = frame.name
        attributes = {**frame.attributes, "flowrt.item.index": span.index}
        if frame.prompt and getattr(span, "wait_ns", 0) >= 0:  # before the end it is not set
            attributes["flowrt.item.queue_wait"] = 0.0
        self.attributes = BoundedAttributes(
            limits.max_span_attributes,
            attributes,
            immutable=False,
            max_value_len=limits.max_span_attribute_length,
        )
        self.events: BoundedList[Event] = BoundedList(limits.max_events)
        self.links: BoundedList[Link] = BoundedList.from_seq(limits.max_links, frame.links)
        self.status = _UNSET


class ItemSpan(trace.Span):
    """One item's span, recording from the moment it is made.

    Reading it (`name`, `attributes`, `events`, `links`, `status`, `kind`, `parent`, `resource`, `start_time`,
    `end_time`, `context`) works as with the SDK's own.

    Args:
        frame: What it has in common with the batch's others.
        ids: As `ids.py` makes them: the trace id in the first 16 bytes, the span id in the last 8.
        index: The item's place in the input.
        start_ns: When it started, by the batch's clock.

    Attributes:
        end_ns: When it ended by that clock, or 0.
        wait_ns: How long the item waited for its first attempt, or -1 where it never had one.
        held_ns: How long it had been held up after the last stall that it was in; 0 where it was in none.
        attempts: How many attempts there were.
        token: Of the context in which the span is the current one.
    """

    __slots__ = ("additions", "attempts", "end_ns", "frame", "ids", "index", "start_ns", "token", "wait_ns")

    # Rare, so not slots that are filled for every item: an instance that needs them has them in its dictionary.
    _context: SpanContext | None = None
    held_ns: int = 0

    def __init__(self, frame: SpanFrame, ids: bytes, index: int, start_ns: int) -> None:
        self.frame = frame
        self.ids = ids
        self.index = index
        self.start_ns = start_ns
        self.end_ns = 0
        self.additions: Additions | None = None
        self.token: Token[Context] | None  # set by who makes it the current one
        self.wait_ns: int  # set at the end, as is the next
        self.attempts: int

    # -- what OpenTelemetry asks of a span -------------------------------------------------------------------------

    def get_span_context(self) -> SpanContext:
        """Its ids and flags, made when they are first asked for."""
        context = self._context
        if context is None:
            frame = self.frame
            trace_id, span_id = numbers_of(self.ids)
            context = self._context = SpanContext(trace_id, span_id, False, frame.flags, frame.trace_state)
        return context

    def is_recording(self) -> bool:
        """Whether what is added to it now is kept."""
        return self.frame.recording and not self.end_ns

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set an attribute; of an ended span it is refused with a warning."""
        if self._takes("an attribute"):
            self._added().attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set several."""
        if self._takes("an attribute"):
            self._added().attributes.update(attributes)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event.

        Args:
            name: The event's name.
            attributes: What is known about it.
            timestamp: When it was, in nanoseconds since 1970; now by default.
        """
        if self._takes("an event"):
            limits = self.frame.limits
            bounded = BoundedAttributes(
                limits.max_event_attributes, attributes, max_value_len=limits.max_attribute_length
            )
            self._added().events.append(Event(name, bounded, timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Link to another span."""
        worth_it = context is not None and (context.is_valid or attributes or context.trace_state)
        if worth_it and self._takes("a link"):
            limits = self.frame.limits
            bounded = BoundedAttributes(
                limits.max_link_attributes, attributes, max_value_len=limits.max_attribute_length
            )
            self._added().links.append(Link(context, bounded))

    def update_name(self, name: str) -> None:
        """Give it another name."""
        if self._takes("a name"):
            self._added().name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set its status; OK is final, and UNSET changes nothing."""
        if not self._takes("a status"):
            return
        if isinstance(status, StatusCode):
            status = Status(status, description)
        elif description is not None:
            _log.warning("description %r is not used: the Status brings its own", description)
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
        """Add an exception with its stack as an event."""
        kind = type(exception)
        module = "" if kind.__module__ in (None, "builtins") else kind.__module__
        about: dict[str, AttributeValue] = {
            "exception.type": f"{module}.{kind.__qualname__}" if module else kind.__qualname__,
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**about, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End it before its item does; what comes later is refused.

        Args:
            end_time: In nanoseconds since 1970; now by default.
        """
        if self.end_ns:
            _log.warning("a span is ended once")
            return
        if self.frame.recording:
            self._added()  # an ended span is encoded as it is now, whatever becomes of its item
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

    # -- what the SDK's spans can be asked besides ------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name."""
        return self.frame.name if self.additions is None else self.additions.name

    @property
    def context(self) -> SpanContext:
        """Its ids and flags."""
        return self.get_span_context()

    @property
    def kind(self) -> SpanKind:
        """INTERNAL."""
        return SpanKind.INTERNAL

    @property
    def parent(self) -> SpanContext | None:
        """The batch span's context, where this is its child."""
        return self.frame.parent

    @property
    def start_time(self) -> int:
        """In nanoseconds since 1970."""
        return self.start_ns + self.frame.offset_ns

    @property
    def end_time(self) -> int | None:
        """In nanoseconds since 1970, or None before the end."""
        return self.end_ns + self.frame.offset_ns if self.end_ns else None

    @property
    def status(self) -> Status:
        """Its status so far."""
        return _UNSET if self.additions is None else self.additions.status

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Its attributes so far."""
        return self._added().attributes.copy()

    @property
    def events(self) -> tuple[Event, ...]:
        """Its events so far."""
        return () if self.additions is None else tuple(self.additions.events)

    @property
    def links(self) -> tuple[Link, ...]:
        """What it links to."""
        return self.frame.links if self.additions is None else tuple(self.additions.links)

    @property
    def resource(self) -> Resource:
        """What its provider describes."""
        return self.frame.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        """The tracer it comes from."""
        return self.frame.scope

    def readable(self) -> ReadableSpan:
        """The ended span as the SDK's own exporters want it."""
        additions = self.additions or self.complete()
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

    def complete(self) -> Additions:
        """Its additions, made where there are none, with what its item's end has to say; called once, at the end."""
        additions = self._added()
        if self.attempts > 1:
            additions.attributes["flowrt.item.attempts"] = self.attempts
        if self.wait_ns >= 0 and not self.frame.prompt:
            additions.attributes["flowrt.item.queue_wait"] = self.wait_ns / 1e9
        if self.held_ns:
            additions.attributes["flowrt.item.held"] = self.held_ns / 1e9
        return additions

    # -- within -----------------------------------------------------------------------------------------------------

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
