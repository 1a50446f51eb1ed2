"""Tracing instrument: a span for the batch and one for each item, made by the process's tracer provider."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from flowrt._util.labels import clean
from flowrt._version import __version__
from flowrt.engine.instrument import Instrument, Phase
from flowrt.model import BatchRecord, ItemRecord, UnexportedIds
from flowrt.telemetry.options import TailSampling, TraceShape
from flowrt.telemetry.redaction import Redact, redact
from flowrt.telemetry.tracing.context import REDACT_KEY, SPAN_KEY, attach, detach, get_current
from flowrt.telemetry.tracing.exceptions import set_failed

__all__ = ["BatchTracing", "TracingInstrument", "make_tracing", "span_of"]

_NESTED_AT_MOST: Final = 1_000  # viewers and collectors choke on traces of many thousand spans
_INTERNAL: Final = SpanKind.INTERNAL  # a module constant, since the attribute lookup on an enum is slow
_log = logging.getLogger("flowrt.tracing")
_warned: Final[list[str]] = []  # warnings that are logged once per process

_latest: tuple[trace.TracerProvider, trace.Tracer] | None = None
MakeInstrument = Callable[[TraceShape, TailSampling | None, Redact], "BatchTracing | None"]

_BY_VARIABLE: Final = "OTEL_PYTHON_TRACER_PROVIDER" in os.environ  # then the API makes the provider when it is needed
_PASSIVE: Final = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)


def make_tracing(shape: TraceShape, tail: TailSampling | None, redact: Redact) -> BatchTracing | None:
    """Make the instrument that traces one batch; None if the process has no tracer provider, or a no-op provider.

    It is the provider's own if it has one, else `TracingInstrument`.
    """
    active = _find_active()
    if active is None:
        return None
    make: MakeInstrument | None = getattr(active[0], "make_instrument", None)  # a Runtime's has it
    if make is not None and (instrument := make(shape, tail, redact)) is not None:
        return instrument
    if tail is not None and not _warned:
        _warned.append("tail_sampling")
        _log.warning(
            "tail_sampling is ignored: this process has a tracer provider or span processors of its own, which choose "
            "the spans to export; sample there, or in the collector"
        )
    return TracingInstrument(shape, redact)


def _find_active() -> tuple[trace.TracerProvider, trace.Tracer] | None:
    """Find the process's provider, unless it is a no-op, and its tracer, which the SDK would make for each call."""
    global _latest  # noqa: PLW0603  # a process has one provider for most of its life
    provider = getattr(trace, "_TRACER_PROVIDER", trace)  # the API's function takes 2 µs
    if provider is None and not _BY_VARIABLE:
        return None
    if _latest is None or _latest[0] is not provider:
        provider = trace.get_tracer_provider()
        if isinstance(provider, _PASSIVE):
            return None
        if _latest is None or _latest[0] is not provider:
            _latest = provider, provider.get_tracer("flowrt", __version__)
    return _latest


@lru_cache(maxsize=64)
def _names_of(batch: str, node: str) -> tuple[str, str, str, str]:
    """Names of a batch's span, the batch, its item spans and its node, as spans show them."""
    return clean(f"batch {batch}"), clean(batch), clean(f"process {node}"), clean(node)


class BatchTracing(Instrument):
    """Base of the instruments that trace one batch. Each batch gets its own.

    Args:
        shape: Relation of the item spans to the batch span.
        redact: Removes secrets from error texts; it must not raise.

    Attributes:
        ended: Number of item spans that have ended.
    """

    phase = Phase.TRACING

    def __init__(self, shape: TraceShape = "auto", redact: Redact = redact) -> None:
        self.ended = 0
        self._redact = redact
        self._shape = shape
        self._item_name = ""
        self._common: dict[str, Any] = {}
        self._links: list[Link] | None = None  # None: items are the batch span's children
        self._offset_ns = 0
        self._prompt = False
        self._seen: Context | None = None  # the worker's context, from which the next two are derived
        self._base = Context()  # the context in which an item's span starts
        self._values: dict[str, object] = {}  # the values of `_base`, with the span of the item that started last

    @property
    def _tracer(self) -> trace.Tracer:
        active = _find_active()
        return trace.NoOpTracer() if active is None else active[1]

    def batch_started(self, batch: BatchRecord) -> None:
        """Start the batch span and make it current, so that the workers inherit it."""
        span_name, batch_name, self._item_name, node_id = _names_of(batch.name, batch.node_id)
        self._common = {
            "flowrt.batch.name": batch_name,
            "flowrt.batch.id": batch.batch_id,
            "flowrt.node.id": node_id,
        }
        self._offset_ns = batch.epoch_offset_ns
        self._prompt = batch.starts_at_once
        attributes = {**self._common, "flowrt.concurrency.limit": batch.limit}
        if batch.expected is not None:
            attributes["flowrt.batch.items.expected"] = batch.expected
        batch.span = span = self._start_batch_span(span_name, attributes, batch)
        values = self._values_without_span(get_current())
        attach(Context({**values, REDACT_KEY: self._redact, SPAN_KEY: span}))  # this context ends with the batch
        small = batch.expected is not None and batch.expected <= _NESTED_AT_MOST
        if self._shape == "linked" or (self._shape == "auto" and not small):
            self._links = [Link(span.get_span_context())]

    def _values_without_span(self, context: Context) -> Mapping[str, object]:
        """Values of a context whose span is to be replaced."""
        return context

    def _start_batch_span(self, name: str, attributes: dict[str, Any], batch: BatchRecord) -> trace.Span:
        start_ns = batch.started_ns + self._offset_ns
        return self._tracer.start_span(name, kind=SpanKind.INTERNAL, attributes=attributes, start_time=start_ns)

    def inputs_cancelled(self, batch: BatchRecord) -> None:
        """Count inputs that were cancelled in bulk as spans that were not sampled."""
        self.ended += batch.unstarted

    def _add_attempt_span(self, item: ItemRecord, parent: trace.Span) -> None:
        """Add a span for an attempt that has just ended, of an item with several attempts."""
        if not item.started_ns:
            return
        span = self._tracer.start_span(
            self._item_name.replace("process ", "attempt ", 1),
            trace.set_span_in_context(parent, Context({REDACT_KEY: self._redact})),
            SpanKind.INTERNAL,
            {**self._common, "flowrt.item.index": item.index, "flowrt.attempt.number": item.beside or item.attempts},
            start_time=item.started_ns + self._offset_ns,
        )
        if item.status not in ("ok", "resumed"):
            set_failed(span, item, self._redact)
        span.end(item.finished_ns + self._offset_ns)

    def _add_hedge_span(self, item: ItemRecord, parent: trace.Span) -> None:
        """Add a span for a hedge that has just ended."""
        hedge = item.hedge
        if hedge is None:
            return
        span = self._tracer.start_span(
            self._item_name.replace("process ", "attempt ", 1),
            trace.set_span_in_context(parent, Context({REDACT_KEY: self._redact})),
            SpanKind.INTERNAL,
            {
                **self._common,
                "flowrt.item.index": item.index,
                "flowrt.attempt.number": hedge.number,
                "flowrt.attempt.hedge": hedge.outcome,
            },
            start_time=hedge.started_ns + self._offset_ns,
        )
        if hedge.outcome == "failed":
            set_failed(span, hedge.result, self._redact)
        span.end(hedge.finished_ns + self._offset_ns)

    def _rebase(self) -> None:
        """Derive the context of item spans from the worker's context, which has changed."""
        self._seen = self._base = get_current()
        if self._links is not None:
            self._base = trace.set_span_in_context(trace.INVALID_SPAN, self._seen)  # a root span that keeps the baggage
        self._values = dict(self._base)

    def batch_ended(self, batch: BatchRecord) -> None:
        """Set the totals on the batch span and end it."""
        span = batch.span
        ok = batch.counts["ok"] + batch.counts["resumed"]
        self._set_totals(span, {"flowrt.batch.items.ok": ok, "flowrt.batch.items.failed": batch.completed - ok})
        if batch.status != "ok":
            text = f"{batch.completed - ok} of {batch.completed} items did not succeed"
            if ok == batch.completed and batch.cut_off is not None:
                text = str(batch.cut_off)
            span.set_status(Status(StatusCode.ERROR, f"{batch.status}: {text}"))
        span.end(batch.finished_ns + self._offset_ns)

    def _set_totals(self, span: trace.Span, totals: dict[str, int]) -> None:
        span.set_attributes(totals)


class _ItemTrace:
    """Span of one item, made through the API.

    Args:
        span: The span.
        token: Restores the context from before the span.

    Attributes:
        ids: As `ItemRecord.ids`; empty if the provider is disabled.
    """

    __slots__ = ("ids", "span", "token")

    def __init__(self, span: trace.Span, token: Any) -> None:
        self.span = span
        self.token = token
        context = span.get_span_context()
        ids = (context.trace_id << 64 | context.span_id).to_bytes(24, "big") if context.trace_id else b""
        self.ids = ids if context.trace_flags.sampled else UnexportedIds(ids)

    @property
    def sampled(self) -> bool:
        """True if the sampler took the span."""
        return not isinstance(self.ids, UnexportedIds)


class TracingInstrument(BatchTracing):
    """Makes spans through the API, so that any provider's sampler, processors and exporters see them.

    Everything that items share is made once per batch: the context in which their spans start, and the context in
    which the node runs except for the span.
    """

    def __init__(self, shape: TraceShape = "auto", redact: Redact = redact) -> None:
        super().__init__(shape, redact)
        self._start_span = self._tracer.start_span

    def item_started(self, item: ItemRecord) -> None:
        """Start the item's span and make it the current one for the node."""
        if get_current() is not self._seen:
            self._rebase()
        attributes = {**self._common, "flowrt.item.index": item.index}
        if self._prompt and item.status == "running":  # an attribute at the start is cheaper than a call at the end
            attributes["flowrt.item.queue_wait"] = 0.0
        span = self._start_span(
            self._item_name,
            self._base,
            _INTERNAL,
            attributes,
            self._links,
            item.pulled_ns + self._offset_ns,
        )
        values = self._values
        values[SPAN_KEY] = span
        item.trace = _ItemTrace(span, attach(Context(values)))

    def attempt_started(self, item: ItemRecord) -> None:
        """Make the item's span the current one in the next attempt's context."""
        handle: _ItemTrace = item.trace
        handle.token = attach(trace.set_span_in_context(handle.span))

    def retry_scheduled(self, item: ItemRecord) -> None:
        """Leave the attempt's context and add the attempt's span."""
        handle: _ItemTrace = item.trace
        token, handle.token = handle.token, None
        detach(token)
        self._add_attempt_span(item, handle.span)

    def hedge_ended(self, item: ItemRecord) -> None:
        """Add the hedge's span."""
        self._add_hedge_span(item, item.trace.span)

    def item_finished(self, item: ItemRecord) -> None:
        """Set the item's outcome on its span and end the span."""
        handle: _ItemTrace = item.trace
        span, token = handle.span, handle.token
        item.trace = handle.ids or None
        # The context of an uncancellable item stays in use: its task was abandoned and still runs in it.
        if token is not None and not item.uncancellable:
            detach(token)
        if span.is_recording():
            attempts, started_ns = item.attempts, item.started_ns
            if attempts > 1:
                self._add_attempt_span(item, span)
                span.set_attribute("flowrt.item.attempts", attempts)
            if not self._prompt:
                wait_ns = started_ns - item.pulled_ns if attempts < 2 and started_ns else item.queue_wait_ns
                if wait_ns >= 0:
                    span.set_attribute("flowrt.item.queue_wait", wait_ns / 1e9)
            if item._sparse is not None:  # noqa: SLF001  # skips the properties for nearly every item
                if item.stalled_ns:
                    span.set_attribute("flowrt.item.held", item.stalled_ns / 1e9)
                if item.cached:
                    span.set_attribute("flowrt.item.cached", True)
            if item.status != "ok" and item.status != "resumed":
                set_failed(span, item, self._redact)
        span.end(item.finished_ns + self._offset_ns)
        self.ended += 1


def span_of(item: ItemRecord) -> trace.Span | None:
    """Return the item's span if it is recording, else None."""
    span = getattr(item.trace, "span", None)  # not of ids, as of an item that has ended
    return span if isinstance(span, trace.Span) and span.is_recording() else None
