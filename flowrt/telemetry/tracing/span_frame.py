"""Span frame: the data that the item spans of a batch share, kept once per batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from flowrt._version import __version__
from flowrt.telemetry.redaction import Redact

__all__ = ["FLAGS", "RANDOM", "SCOPE", "SpanFrame"]

RANDOM: Final = 0x02
"""Trace flag of W3C trace context: the trace's id is random."""

FLAGS: Final = {
    (sampled, random): TraceFlags((TraceFlags.SAMPLED if sampled else 0) | (RANDOM if random else 0))
    for sampled in (False, True)
    for random in (False, True)
}
"""Trace flags, by whether a span is sampled and its trace's id is random."""

SCOPE: Final = InstrumentationScope("flowrt", __version__)
"""Instrumentation scope of the item spans."""


class ParentSpan(Protocol):
    """Span of the same provider that is another span's parent.

    Attributes:
        ids: Ids as `ids.py` encodes them.
    """

    ids: bytes

    def get_span_context(self) -> SpanContext:
        """Ids and flags."""


class SpanFrame:
    """Data that the item spans of a batch share.

    Args:
        name: Span name.
        resource: The provider's resource.
        scope: Instrumentation scope.
        limits: The provider's span limits.
        attributes: Attributes of every span; the index follows them.
        links: Links of every span.
        parent: The batch span's context, if the items are its children.
        flags: Trace flags.
        trace_state: Trace state from the sampler; None for an empty one.
        recording: True if the sampler wants the spans recorded.
        offset_ns: Difference between Unix time and the batch's clock, in nanoseconds.
        redact: Removes secrets from texts of exceptions and errors; None for no redaction.
        prompt: True if items start at once, so that their queue wait is known from the beginning.
        hand_over: Takes every sampled span that has ended.

    Attributes:
        above: The parent, if it is a span of the same provider; else `parent_context` is its context.
        template: The encoder's template, made on demand.
        append: Takes a span without additions in encoded form; None if the target does not.
    """

    __slots__ = (
        "above",
        "append",
        "attributes",
        "flags",
        "hand_over",
        "limits",
        "links",
        "name",
        "offset_ns",
        "parent_context",
        "prompt",
        "recording",
        "redact",
        "resource",
        "sampled",
        "scope",
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
        trace_state: TraceState | None,
        recording: bool,
        offset_ns: int,
        hand_over: Callable[[Any], None],
        prompt: bool = False,
        redact: Redact | None = None,
    ) -> None:
        self.name = name
        self.resource = resource
        self.scope = scope
        self.limits = limits
        self.attributes = attributes
        self.links = links
        self.above: ParentSpan | None = None
        self.parent_context = parent
        self.flags = flags
        self.trace_state = trace_state
        self.recording = recording
        self.sampled = flags.sampled
        self.offset_ns = offset_ns
        self.hand_over = hand_over
        self.prompt = prompt
        self.redact = redact
        self.template: Any = None
        self.append: Callable[[Any], None] | None = None

    @property
    def parent(self) -> SpanContext | None:
        """The parent's context; None for root spans."""
        return self.parent_context if self.above is None else self.above.get_span_context()

    def under(
        self,
        span: ParentSpan | None,
        name: str,
        attributes: Mapping[str, AttributeValue],
        offset_ns: int,
        hand_over: Callable[[Any], None],
        *,
        prompt: bool,
        redact: Redact | None,
    ) -> SpanFrame:
        """Make a frame for spans with the same sampling decision, as children of a span of this frame or as roots.

        It costs a third of the constructor, and the parent's context is made on demand.

        Args:
            span: The parent; None for roots.
            name: As the constructor.
            attributes: As the constructor.
            offset_ns: As the constructor.
            hand_over: As the constructor.
            prompt: As the constructor.
            redact: As the constructor.
        """
        frame = SpanFrame.__new__(SpanFrame)
        frame.name = name
        frame.resource, frame.scope, frame.limits = self.resource, self.scope, self.limits
        frame.attributes = attributes
        frame.links = ()
        frame.above = span
        frame.parent_context = None
        frame.flags, frame.trace_state = self.flags, self.trace_state
        frame.recording = frame.sampled = True
        frame.offset_ns = offset_ns
        frame.hand_over = hand_over
        frame.prompt = prompt
        frame.redact = redact
        frame.template = frame.append = None
        return frame
