"""The tracer provider that a runtime sets up for a process that has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider

from flowrt.telemetry.options import TailSampling, TraceShape
from flowrt.telemetry.tracing.instrument import BatchTracing
from flowrt.telemetry.tracing.tail_sampling import SpanBuffer

__all__ = ["MakeInstrument", "RuntimeProvider", "SpanTarget"]

MakeInstrument = Callable[["RuntimeProvider", TraceShape, TailSampling | None], BatchTracing]
"""Makes the instrument that traces one batch with a provider's own spans."""


class SpanTarget(Protocol):
    """Where finished spans go.

    One that has `takes_plain = True` takes a `PlainSpan` where that says all, too, by `append`; and is told to `look`
    after every few.
    """

    def put(self, span: Any) -> None:
        """Take a sampled span that has ended: an `ItemSpan` or one of the SDK's."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what waits now, and say whether nothing waits any more."""


def _nowhere(span: Any) -> None:
    """Nothing is exported."""


class RuntimeProvider(TracerProvider):
    """The SDK's provider, with its spans and ours going to one target.

    A provider is for the life of a process, what it exports to is not.

    Args:
        resource: What it describes.
        make_instrument: Makes the instrument of a batch, for as long as the provider has no other span processor.

    Attributes:
        limits: The span limits of the `OTEL_*` variables.
        target: Where finished spans go, or None where nobody wants them.
        held: Spans that wait for the end of the item under which they stand, where tails are sampled.
        plain: No span processor was added to it, so nobody but the target waits for its spans.
    """

    def __init__(self, resource: Resource, make_instrument: MakeInstrument) -> None:
        self._make_instrument = make_instrument
        self.limits = SpanLimits()
        super().__init__(resource=resource, span_limits=self.limits, shutdown_on_exit=False)
        self.plain = True
        self.target: SpanTarget | None = None
        self.held: SpanBuffer | None = None
        super().add_span_processor(_Switch(self))

    @property
    def hand_over(self) -> Callable[[Any], None]:
        """What takes a sampled span that has ended."""
        return _nowhere if self.target is None else self.target.put

    @property
    def plain_target(self) -> Any:
        """The target where it takes a `PlainSpan`, too, else None."""
        return self.target if getattr(self.target, "takes_plain", False) else None

    def make_instrument(self, shape: TraceShape, tail: TailSampling | None) -> BatchTracing | None:
        """Make the instrument of one batch; None if a span processor wants to see the SDK's own spans."""
        return self._make_instrument(self, shape, tail) if self.plain else None

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Add a processor, which sees every span from the next batch on."""
        self.plain = False
        super().add_span_processor(span_processor)


class _Switch(SpanProcessor):
    """Hands the SDK's own spans to the target."""

    def __init__(self, provider: RuntimeProvider) -> None:
        self._provider = provider

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002  # the SDK's
        held = self._provider.held
        if held is not None and span.parent is not None and span.context is not None:
            held.start(span.context.span_id, span.parent.span_id)

    def on_end(self, span: ReadableSpan) -> None:
        context, held = span.context, self._provider.held
        if context is None or not context.trace_flags.sampled:
            return
        if held is None or not held.take(context.span_id, span):
            self._provider.hand_over(span)

    def shutdown(self) -> None:
        self._provider.target = None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        target = self._provider.target
        return target is None or target.force_flush(timeout_millis)
