"""Tracing instrument of the Runtime's provider: makes item spans itself and hands them over without a lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanContext, SpanKind

from flowrt.model import BatchRecord, ItemRecord, UnexportedIds
from flowrt.telemetry.options import TailSampling, TraceShape
from flowrt.telemetry.redaction import Redact, redact
from flowrt.telemetry.tracing.batch_span import BatchSpan
from flowrt.telemetry.tracing.context import attach, detach, get_current, reset
from flowrt.telemetry.tracing.exceptions import set_failed
from flowrt.telemetry.tracing.ids import id_pool, ids_to_ints, new_ids, refill_ids
from flowrt.telemetry.tracing.instrument import BatchTracing
from flowrt.telemetry.tracing.item_context import ItemContext, without_span
from flowrt.telemetry.tracing.known_decisions import decides_alike, known_decision, ratio_bound, samples_alike
from flowrt.telemetry.tracing.otlp_encoding import END_KEY, START_KEY, Template, template_of
from flowrt.telemetry.tracing.provider import RuntimeProvider
from flowrt.telemetry.tracing.span import ItemSpan
from flowrt.telemetry.tracing.span_frame import FLAGS, RANDOM, SCOPE, SpanFrame
from flowrt.telemetry.tracing.tail_sampling import SpanBuffer, is_wanted

__all__ = ["NativeTracingInstrument"]

_pop_ids: Final = id_pool.pop
_CHECK_EVERY: Final = 16  # plain spans are appended first; the pipeline checks its limit after this many
_LOWEST_IDS: Final = bytes(7) + b"\1" + bytes(8) + b"\1" * 8  # a ratio sampler takes this trace if it takes any
_HIGHEST_IDS: Final = b"\xff" * 16 + b"\1" * 8


def _detach(context: ItemContext) -> None:
    """Restore the context from before the item."""
    token, context.token = context.token, None
    if token is not None:
        try:
            reset(token)
        except (ValueError, RuntimeError):
            detach(token)


class NativeTracingInstrument(BatchTracing):
    """Makes the item spans of one batch as `ItemSpan` and hands them to the provider's target.

    If the sampler decides alike for all items, it is called once per batch.

    Args:
        provider: The Runtime's provider, without further span processors.
        shape: Relation of the item spans to the batch span.
        tail: Tail sampling policy for the spans that the sampler chose.
        redact: Removes secrets from error texts; it must not raise.

    Attributes:
        unsampled: Number of item spans that the sampler or the tail sampling discarded.
    """

    def __init__(
        self,
        provider: RuntimeProvider,
        shape: TraceShape = "auto",
        tail: TailSampling | None = None,
        redact: Redact = redact,
    ) -> None:
        super().__init__(shape, redact)
        self.unsampled = 0
        self._tail = tail
        self._buffer: SpanBuffer | None = None
        self._outer_buffer: SpanBuffer | None = None  # the enclosing item's buffer, if the batch runs inside an item
        self._provider = provider
        self._own_tasks = False
        self._target: Any = None  # the pipeline, if it takes plain spans
        self._generator: IdGenerator | None = None  # a custom one, which makes the ids
        self._trace_bytes = b""  # the trace's id, if items are the batch span's children
        self._pooled_ids = False  # True if the ids of the pool are used as they are
        self._buffers_spans = False
        self._frames: dict[tuple[Any, ...], SpanFrame] = {}
        self._frame: SpanFrame | None = None  # for every item, if the sampler decides alike for all
        self._by_ratio: tuple[int, SpanFrame, SpanFrame] | None = None  # bound; frames for ids below it and for others
        self._parent: SpanContext | None = None

    def batch_started(self, batch: BatchRecord) -> None:
        """Start the batch span, and call the sampler once if it decides alike for all items."""
        super().batch_started(batch)
        if self._tail is not None:
            buffer = self._provider.span_buffer
            if buffer is None:
                buffer = self._provider.span_buffer = SpanBuffer(self._tail.most_spans)
            buffer.most_spans = max(buffer.most_spans, self._tail.most_spans)
            self._buffer = buffer
        elif self._links is None:
            self._outer_buffer = self._provider.span_buffer
        self._buffers_spans = self._buffer is not None or self._outer_buffer is not None
        self._target = self._provider.plain_target
        self._own_tasks = batch.own_tasks
        self._rebase()
        sampler, span, parent = self._provider.sampler, batch.span, None
        if self._links is None:
            self._trace_bytes = span.ids[:16]
            if not self._buffers_spans and span.sampled and samples_alike(sampler):
                self._frame = self._frame_under(span, self._item_name, self._common, self._provider.hand_over)
                self._let_append(self._frame)
                return
            self._parent = parent = span.get_span_context()
        self._pooled_ids = self._generator is None and not self._trace_bytes
        if (sampled := known_decision(sampler, parent)) is not None:
            decision = Decision.RECORD_AND_SAMPLE if sampled else Decision.DROP
            self._frame = self._item_frame(decision, self._common, None if parent is None else parent.trace_state)
        elif decides_alike(sampler, parent):
            self._frame = self._ask(new_ids(self._trace_bytes, self._generator), 0)
        elif self._links is not None and (bound := ratio_bound(sampler)) is not None:
            self._by_ratio = bound, self._ask(_LOWEST_IDS, 0), self._ask(_HIGHEST_IDS, 0)

    def inputs_cancelled(self, batch: BatchRecord) -> None:
        """Count inputs that were cancelled in bulk as spans that were not sampled."""
        super().inputs_cancelled(batch)
        self.unsampled += batch.unstarted

    def item_started(self, item: ItemRecord) -> None:
        """Make the context in which the node finds the item's span."""
        if get_current() is not self._seen:
            self._rebase()
        try:
            ids = _pop_ids() if self._pooled_ids else new_ids(self._trace_bytes, self._generator)
        except IndexError:
            ids = refill_ids()
        frame = self._frame
        if frame is None:
            if (by_ratio := self._by_ratio) is None:
                frame = self._ask(ids, item.index)
            else:
                frame = by_ratio[1] if int.from_bytes(ids[8:16], "big") < by_ratio[0] else by_ratio[2]
        item.trace = context = ItemContext()
        context.frame = frame
        context.base = self._values
        context.ids = ids
        context.index = item.index
        context.start_ns = item.pulled_ns
        context.end_ns = 0
        context.made = None
        if self._buffers_spans:
            self._open_buffer(ids)
        token = attach(context)
        context.token = None if self._own_tasks else token

    def attempt_started(self, item: ItemRecord) -> None:
        """Make the item's context the current one in the next attempt's."""
        if get_current() is not self._seen:
            self._rebase()
        context: ItemContext = item.trace
        same = context.base is self._values
        context.token = attach(context if same else trace.set_span_in_context(context.span, self._base))

    def retry_scheduled(self, item: ItemRecord) -> None:
        """Leave the attempt's context and add the attempt's span."""
        context: ItemContext = item.trace
        _detach(context)
        self._add_attempt_span(item, context.span)

    def hedge_ended(self, item: ItemRecord) -> None:
        """Add the hedge's span."""
        context: ItemContext = item.trace
        if context.frame.recording:
            self._add_hedge_span(item, context.span)

    def item_finished(self, item: ItemRecord) -> None:
        """End the item's span and hand it over. Nearly every item takes the fast path."""
        context: ItemContext = item.trace
        item.trace = ids = context.ids
        frame = context.frame
        append = frame.append
        if append is not None and item.status == "ok" and item.attempts == 1:
            context.end_ns = end_ns = item.finished_ns
            span = context.made
            if span is None or span.additions is None:  # a span that the node ended itself has additions
                if span is not None:
                    span.end_ns = end_ns
                if not self._own_tasks:
                    _detach(context)
                template: Template = frame.template
                block, pack, lowest, before, tail = template.latest
                index, start_ns, offset_ns = context.index, context.start_ns, frame.offset_ns
                if index >> 7 == block and item.started_ns is start_ns and item._sparse is None:  # noqa: SLF001
                    begun, ended = start_ns + offset_ns, end_ns + offset_ns
                    append(pack(before, index - lowest, tail, ids, START_KEY, begun, END_KEY, ended))
                else:
                    wait_ns = item.started_ns - start_ns
                    append(template.encode_plain(ids, index, start_ns, end_ns, wait_ns, item.stalled_ns))
                self.ended = count = self.ended + 1
                if not count % _CHECK_EVERY:
                    self._target.check_backlog(_CHECK_EVERY)
                return
        if item.uncancellable:  # its task was abandoned and still runs in the context
            context.token = None
        _detach(context)
        self._finish_other(item, context.span)

    def _finish_other(self, item: ItemRecord, span: ItemSpan) -> None:
        """End a span that has an object."""
        frame = span.frame
        if span.end_ns:  # the node ended the span, which handed it over
            if not frame.sampled:
                item.trace = UnexportedIds(span.ids)
                self.unsampled += 1
            self._end()
            if self._buffer is not None:
                self._release_buffered(item, self._buffer, wanted=frame.sampled or self._wants(item))
            return
        span.attempts = attempts = item.attempts
        if item._sparse is not None:  # noqa: SLF001  # skips the properties
            if item.stalled_ns:
                span.delayed_ns = item.stalled_ns
            if item.cached:
                span.set_attribute("flowrt.item.cached", True)
        started_ns = item.started_ns
        if attempts < 2 and started_ns:
            span.wait_ns = started_ns - item.pulled_ns
        else:
            span.wait_ns = item.queue_wait_ns
            if attempts > 1 and frame.recording:
                self._add_attempt_span(item, span)
        state = item.status
        if state != "ok" and state != "resumed" and frame.recording:
            span.complete()
            set_failed(span, item, self._redact)
        elif span.additions is not None:
            span.complete()
        span.end_ns = item.finished_ns
        wanted = True
        if self._buffer is not None:
            wanted = self._wants(item)
            self._release_buffered(item, self._buffer, wanted=wanted)
        if wanted and frame.sampled:
            if self._outer_buffer is None or not self._outer_buffer.take(ids_to_ints(item.ids)[1], span):
                frame.hand_over(span)
        else:
            item.trace = UnexportedIds(span.ids)
            self.unsampled += 1
        self._end()

    def batch_ended(self, batch: BatchRecord) -> None:
        """End the batch span after the last item span."""
        if self._target is not None:
            self._target.check_backlog(_CHECK_EVERY)
        super().batch_ended(batch)

    def _values_without_span(self, context: Context) -> Mapping[str, object]:
        return without_span(context)

    def _start_batch_span(self, name: str, attributes: dict[str, Any], batch: BatchRecord) -> trace.Span:
        """Start the span as the provider's own tracer would."""
        provider, context = self._provider, get_current()
        generator = provider.id_generator
        self._generator = None if type(generator) is RandomIdGenerator else generator
        above: Any = context if type(context) is ItemContext else trace.get_current_span(context)
        ours = type(above) in (ItemContext, ItemSpan) and above.frame.limits is provider.limits
        if ours and above.sampled and provider.span_buffer is None and samples_alike(provider.sampler):
            ids = new_ids(above.ids[:16], self._generator)
            frame = self._frame_under(above, name, attributes, provider.hand_over_batch)
            return BatchSpan(frame, ids, batch.started_ns)
        if above is trace.INVALID_SPAN and (root := provider.root_frame()) is not None:
            hand_over = provider.hand_over_batch
            frame = root.under(
                None, name, attributes, self._offset_ns, hand_over, prompt=self._prompt, redact=self._redact
            )
            return BatchSpan(frame, new_ids(b"", None), batch.started_ns)
        parent: SpanContext | None = above.get_span_context()
        if parent is None or not parent.is_valid:
            parent = None
        ids = new_ids(b"" if parent is None else parent.trace_id.to_bytes(16, "big"), self._generator)
        if (sampled := known_decision(provider.sampler, parent)) is not None:
            decision = Decision.RECORD_AND_SAMPLE if sampled else Decision.DROP
            trace_state = None if parent is None else parent.trace_state
        else:
            trace_id = ids_to_ints(ids)[0]
            result = provider.sampler.should_sample(context, trace_id, name, SpanKind.INTERNAL, attributes, None)
            decision, trace_state = result.decision, result.trace_state
            attributes = attributes | dict(result.attributes or {})
        frame = self._frame_of(name, attributes, (), parent, decision, trace_state)
        frame.hand_over = provider.hand_over_batch
        if parent is not None and provider.span_buffer is not None:
            provider.span_buffer.start(ids_to_ints(ids)[1], parent.span_id)
        return BatchSpan(frame, ids, batch.started_ns)

    def _set_totals(self, span: trace.Span, totals: dict[str, int]) -> None:
        if isinstance(span, BatchSpan) and span.is_recording():
            span.set_totals(totals)

    # -- within -----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Count an ended span that is not plain.

        It may take the place at which the fast path would check the backlog, so the check is made here too.
        """
        self.ended = ended = self.ended + 1
        if self._target is not None and not ended % _CHECK_EVERY:
            self._target.check_backlog(_CHECK_EVERY)

    def _wants(self, item: ItemRecord) -> bool:
        return self._tail is not None and is_wanted(item, self._tail)

    def _release_buffered(self, item: ItemRecord, buffer: SpanBuffer, *, wanted: bool) -> None:
        """Hand over the spans under the item's span, or discard them."""
        for span in buffer.close(ids_to_ints(item.ids)[1]):
            if wanted:
                self._provider.hand_over(span)

    def _open_buffer(self, ids: bytes) -> None:
        """Start buffering the spans under an item that has just started."""
        _, span_id = ids_to_ints(ids)
        if self._buffer is not None:
            self._buffer.open(span_id)
        elif self._outer_buffer is not None and self._parent is not None:
            self._outer_buffer.start(span_id, self._parent.span_id)

    def _ask(self, ids: bytes, index: int) -> SpanFrame:
        """Call the sampler for one item and return the frame for its decision."""
        own = (
            {"flowrt.item.index": index, "flowrt.item.queue_wait": 0.0}
            if self._prompt
            else {"flowrt.item.index": index}
        )
        result = self._provider.sampler.should_sample(
            self._base, ids_to_ints(ids)[0], self._item_name, SpanKind.INTERNAL, self._common | own, self._links
        )
        # The sampler's own attributes go into the frame, before the item's: no reader depends on their order.
        added = {key: value for key, value in (result.attributes or {}).items() if key not in own}
        key = (result.decision, result.trace_state, tuple(added.items()))
        try:
            return self._frames[key]
        except (KeyError, TypeError):  # a new decision, or one with an attribute that is a list
            pass
        frame = self._item_frame(result.decision, added, result.trace_state)
        try:
            if len(self._frames) < 64:
                self._frames[key] = frame
        except TypeError:
            pass
        return frame

    def _item_frame(self, decision: Decision, attributes: dict[str, Any], trace_state: Any) -> SpanFrame:
        """Return the frame of items with this sampling decision."""
        links = () if self._links is None else tuple(self._links)
        attributes = attributes if decision is not Decision.DROP else {}
        frame = self._frame_of(self._item_name, attributes, links, self._parent, decision, trace_state)
        if frame.sampled and not self._buffers_spans:  # every ended span goes straight to the target
            self._let_append(frame)
        return frame

    def _let_append(self, frame: SpanFrame) -> None:
        """Let spans of a frame be appended to the target in their encoded form, if it takes that."""
        if self._target is not None and template_of(frame).takes_plain:
            frame.append = self._target.append

    def _frame_under(
        self, span: ItemSpan, name: str, attributes: dict[str, Any], hand_over: Callable[[Any], None]
    ) -> SpanFrame:
        """Return the frame of spans under a sampled one of this provider, if all of them are sampled, too."""
        return span.frame.under(
            span, name, attributes, self._offset_ns, hand_over, prompt=self._prompt, redact=self._redact
        )

    def _frame_of(
        self,
        name: str,
        attributes: dict[str, Any],
        links: tuple[trace.Link, ...],
        parent: SpanContext | None,
        decision: Decision,
        trace_state: Any,
    ) -> SpanFrame:
        provider = self._provider
        random = bool(parent.trace_flags & RANDOM) if parent is not None else provider.makes_random_ids
        return SpanFrame(
            name=name,
            resource=provider.resource,
            scope=SCOPE,
            limits=provider.limits,
            attributes=attributes,
            links=links,
            parent=parent,
            flags=FLAGS[decision is Decision.RECORD_AND_SAMPLE, random],
            trace_state=trace_state,
            recording=decision is not Decision.DROP,
            offset_ns=self._offset_ns,
            hand_over=provider.hand_over,
            prompt=self._prompt,
            redact=self._redact,
        )
