"""Tracer provider that a Runtime installs in a process without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Sampler

from flowrt.telemetry.options import TailSampling, TraceShape
from flowrt.telemetry.redaction import Redact, redact
from flowrt.telemetry.tracing.context import REDACT_KEY
from flowrt.telemetry.tracing.ids import ids_to_ints
from flowrt.telemetry.tracing.instrument import BatchTracing
from flowrt.telemetry.tracing.known_decisions import known_decision
from flowrt.telemetry.tracing.redacted_span import redacted_span
from flowrt.telemetry.tracing.span import ItemSpan
from flowrt.telemetry.tracing.span_frame import FLAGS, SCOPE, SpanFrame
from flowrt.telemetry.tracing.tail_sampling import SpanBuffer

__all__ = ["MakeInstrument", "RuntimeProvider", "SpanTarget"]

_MOST_ACTIVE: Final = 10_000

MakeInstrument = Callable[["RuntimeProvider", TraceShape, TailSampling | None, Redact], BatchTracing]
"""Factory of the instrument that traces one batch with a provider's own spans."""


class SpanTarget(Protocol):
    """Destination of finished spans.

    A target with `takes_plain = True` also has `append`, which takes a span that is encoded already, as bytes, and
    `check_backlog`, which is called after every few appended spans.
    """

    def put(self, span: Any) -> None:
        """Take a sampled span that has ended: an `ItemSpan` or an SDK span."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export the waiting spans, and return True if none is left."""


def _discard(span: Any) -> None:
    """Discard a span: there is no target."""


class RuntimeProvider(TracerProvider):
    """SDK provider that sends both SDK spans and item spans to one target.

    A process can set a provider only once, so the target may be exchanged while the provider stays.

    Args:
        resource: The provider's resource.
        make_instrument: Makes the instrument of a batch, as long as no span processor was added.

    Attributes:
        limits: Span limits from the `OTEL_*` variables.
        target: Destination of finished spans, or None to discard them.
        span_buffer: Buffer of spans under active items, if traces are tail-sampled.
        hand_over_batch: Function that takes a sampled batch span that has ended. All batches share it: a method of a
            batch's instrument would be in a reference cycle with the batch's span.
        plain: True while no span processor was added, so that only the target receives spans.
    """

    def __init__(self, resource: Resource, make_instrument: MakeInstrument) -> None:
        self._make_instrument = make_instrument
        self.limits = SpanLimits()
        super().__init__(resource=resource, span_limits=self.limits, shutdown_on_exit=False)
        self.plain = True
        self.target: SpanTarget | None = None
        self.span_buffer: SpanBuffer | None = None
        self.hand_over_batch: Callable[[ItemSpan], None] = self._take_batch
        self._root: tuple[Sampler, IdGenerator, SpanFrame | None] | None = None
        super().add_span_processor(_Switch(self))

    @property
    def hand_over(self) -> Callable[[Any], None]:
        """Function that takes a sampled span that has ended."""
        return _discard if self.target is None else self.target.put

    def _take_batch(self, span: ItemSpan) -> None:
        buffer = self.span_buffer
        if buffer is None or not buffer.take(ids_to_ints(span.ids)[1], span):
            self.hand_over(span)

    @property
    def plain_target(self) -> Any:
        """The target if it takes encoded spans, else None."""
        return self.target if getattr(self.target, "takes_plain", False) else None

    @property
    def makes_random_ids(self) -> bool:
        """True if the id generator says that the ids of its traces are random."""
        is_random = getattr(self.id_generator, "is_trace_id_random", None)
        return is_random is not None and bool(is_random())

    def root_frame(self) -> SpanFrame | None:
        """Return the frame from which frames of root spans may be derived.

        It is None if the sampler may discard root spans, or if the ids come from a generator other than the SDK's.
        """
        sampler, generator, root = self.sampler, self.id_generator, self._root
        if root is None or root[0] is not sampler or root[1] is not generator:
            frame: SpanFrame | None = None
            if type(generator) is RandomIdGenerator and known_decision(sampler, None):
                frame = SpanFrame(
                    name="",
                    resource=self.resource,
                    scope=SCOPE,
                    limits=self.limits,
                    attributes={},
                    links=(),
                    parent=None,
                    flags=FLAGS[True, self.makes_random_ids],
                    trace_state=None,
                    recording=True,
                    offset_ns=0,
                    hand_over=_discard,
                )
            root = self._root = sampler, generator, frame
        return root[2]

    def make_instrument(self, shape: TraceShape, tail: TailSampling | None, redact: Redact) -> BatchTracing | None:
        """Make the instrument of one batch; None if a span processor was added, which expects SDK spans."""
        return self._make_instrument(self, shape, tail, redact) if self.plain else None

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Add a processor. It sees item spans from the next batch on."""
        self.plain = False
        super().add_span_processor(span_processor)


class _Switch(SpanProcessor):
    """Span processor that hands SDK spans to the target, without secrets in the exceptions that the SDK records."""

    def __init__(self, provider: RuntimeProvider) -> None:
        self._provider = provider
        self._redacts: dict[int, Redact] = {}  # by the ids of active spans whose batch has a function of its own

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        own: Any = otel_context.get_value(REDACT_KEY, parent_context)
        if own is not None and own is not redact and span.context is not None:
            if len(self._redacts) >= _MOST_ACTIVE:  # spans that were never ended
                del self._redacts[next(iter(self._redacts))]
            self._redacts[span.context.span_id] = own
        buffer = self._provider.span_buffer
        if buffer is not None and span.parent is not None and span.context is not None:
            buffer.start(span.context.span_id, span.parent.span_id)

    def on_end(self, span: ReadableSpan) -> None:
        context, provider = span.context, self._provider
        if context is None:
            return
        own = self._redacts.pop(context.span_id, redact)
        if not context.trace_flags.sampled:
            return
        if not provider.plain or span.instrumentation_scope != SCOPE:  # flowrt redacts its own spans itself
            span = redacted_span(span, own, provider.limits.max_attribute_length)
        buffer = provider.span_buffer
        if buffer is None or not buffer.take(context.span_id, span):
            provider.hand_over(span)

    def shutdown(self) -> None:
        self._provider.target = None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        target = self._provider.target
        return target is None or target.force_flush(timeout_millis)
