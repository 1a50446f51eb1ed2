"""The item spans of a provider of our own: made once, sampled once where that can be, handed over without a lock."""

from __future__ import annotations

import re
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, ParentBasedTraceIdRatio, StaticSampler, TraceIdRatioBased
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from flowrt.model import BatchRecord, ItemRecord
from flowrt.telemetry.options import TailSampling, TraceShape
from flowrt.telemetry.tracing.context import SPAN_KEY, attach, detach, get_current, reset
from flowrt.telemetry.tracing.ids import draw, make_ids, numbers_of, stock
from flowrt.telemetry.tracing.instrument import BatchTracing, set_failed
from flowrt.telemetry.tracing.otlp_encoding import template_of
from flowrt.telemetry.tracing.provider import RuntimeProvider
from flowrt.telemetry.tracing.span import SCOPE, ItemSpan, SpanFrame
from flowrt.telemetry.tracing.tail_sampling import SpanBuffer, is_wanted

__all__ = ["NativeTracingInstrument"]

_pop_ids: Final = stock.pop
_LOOK_EVERY: Final = 16  # plain spans are handed over before anybody looks whether there is room for them
_PARENT_BASED: Final = (ParentBased, ParentBasedTraceIdRatio)
_LOWEST_IDS: Final = bytes(7) + b"\1" + bytes(8) + b"\1" * 8  # a sampler by ratio takes this trace, if it takes any
_HIGHEST_IDS: Final = b"\xff" * 16 + b"\1" * 8
_ROOTS_ALIKE: Final = re.compile(r"ParentBased\{root:Always(On|Off)Sampler,")
_CHILDREN_ALIKE: Final = re.compile(
    r",localParentSampled:Always(On|Off)Sampler,localParentNotSampled:Always(On|Off)Sampler\}$"
)


def _detach(span: ItemSpan) -> None:
    """Let what was current before the span be so again."""
    token, span.token = span.token, None
    if token is not None:
        try:
            reset(token)
        except (ValueError, RuntimeError):
            detach(token)


class NativeTracingInstrument(BatchTracing):
    """Makes a batch's item spans itself and hands them to the provider's exporter.

    Args:
        provider: The runtime's own; it has no span processor but the runtime's.
        shape: How items hang together with the batch span.
        tail: Which of the sampler's choice to keep.

    Attributes:
        unsampled: How many item spans were not wanted, at their start or at their end.
    """

    def __init__(self, provider: RuntimeProvider, shape: TraceShape = "auto", tail: TailSampling | None = None) -> None:
        super().__init__(shape)
        self.unsampled = 0
        self._tail = tail
        self._held: SpanBuffer | None = None
        self._outer: SpanBuffer | None = None  # where the batch itself stands under an item whose end is waited for
        self._provider = provider
        self._target: Any = None  # what takes plain spans, where there is something that does
        self._any_ids = False  # whether those of the stock will do
        self._holds = False
        self._frames: dict[tuple[Any, ...], SpanFrame] = {}
        self._frame: SpanFrame | None = None  # of every item, where the sampler decides once
        self._by_ratio: tuple[int, SpanFrame, SpanFrame] | None = None  # of ids below a bound, and of the others
        self._parent: SpanContext | None = None
        self._trace_id = 0  # of every item, where they are the batch span's children

    def batch_started(self, batch: BatchRecord) -> None:
        """Start the batch span, and ask the sampler about all items at once where it decides for all alike."""
        super().batch_started(batch)
        if self._tail is not None:
            held = self._provider.held
            if held is None:
                held = self._provider.held = SpanBuffer(self._tail.most_spans)
            held.most_spans = max(held.most_spans, self._tail.most_spans)
            self._held = held
        elif self._links is None:
            self._outer = self._provider.held
        parent: SpanContext | None = batch.span.get_span_context()
        if self._links is None and parent is not None:
            self._trace_id = parent.trace_id
        else:
            parent = None
        self._parent = parent
        self._any_ids = type(self._provider.id_generator) is RandomIdGenerator and not self._trace_id
        self._holds = self._held is not None or self._outer is not None
        self._target = self._provider.plain_target
        self._rebase()
        if self._decides_once():
            self._frame = self._ask(self._new_ids(), 0)
        elif (bound := self._bound_of_ids()) is not None:
            self._by_ratio = bound, self._ask(_LOWEST_IDS, 0), self._ask(_HIGHEST_IDS, 0)

    def item_started(self, item: ItemRecord) -> None:
        """Make the item's span and make it the current one for the node."""
        if get_current() is not self._seen:
            self._rebase()
        try:
            ids = _pop_ids() if self._any_ids else self._new_ids()
        except IndexError:
            ids = draw()
        frame = self._frame
        if frame is None:
            if (by_ratio := self._by_ratio) is None:
                frame = self._ask(ids, item.index)
            else:
                frame = by_ratio[1] if int.from_bytes(ids[8:16], "big") < by_ratio[0] else by_ratio[2]
        item.ids = ids
        item.span = span = ItemSpan(frame, ids, item.index, item.pulled_ns)
        if self._holds:
            self._hold(ids)
        values = self._values
        values[SPAN_KEY] = span
        span.token = attach(Context(values))

    def attempt_started(self, item: ItemRecord) -> None:
        """Make the item's span the current one again, where the next attempt runs."""
        if get_current() is not self._seen:
            self._rebase()
        span: ItemSpan = item.span
        span.token = attach(trace.set_span_in_context(span, self._base))

    def retry_scheduled(self, item: ItemRecord) -> None:
        """Leave the attempt's context, and tell of the attempt."""
        span: ItemSpan = item.span
        _detach(span)
        self._tell_attempt(item, span)

    def hedge_ended(self, item: ItemRecord) -> None:
        """Tell of the hedge."""
        span: ItemSpan = item.span
        if span.frame.recording:
            self._tell_hedge(item, span)

    def item_finished(self, item: ItemRecord) -> None:
        """End the item's span and hand it over."""
        span: ItemSpan = item.span
        item.span = None
        frame = span.frame
        if (
            item.status == "ok" and item.attempts == 1 and span.additions is None and frame.swift
        ):  # nearly every one; of those that the node has ended itself, none
            _detach(span)
            start_ns, append = span.start_ns, frame.append
            span.end_ns = end_ns = item.finished_ns
            wait_ns = item.started_ns - start_ns
            held_ns = 0 if item._sparse is None else item.stalled_ns  # noqa: SLF001  # nothing seldom has come to it
            self.ended = ended = self.ended + 1
            if append is not None:
                append((frame.template, span.ids, span.index, start_ns, end_ns, wait_ns, held_ns))
                if not ended % _LOOK_EVERY:
                    self._target.look(_LOOK_EVERY)
                return
            if held_ns:
                span.held_ns = held_ns
            span.wait_ns, span.attempts = wait_ns, 1
            frame.hand_over(span)
            return
        if item.uncancellable:  # its context is still in use, in a task that nobody waits for
            span.token = None
        _detach(span)
        if span.end_ns:  # by the node, which handed it over
            if not frame.sampled:
                item.unkept = True
                self.unsampled += 1
            self._end()
            if self._held is not None:
                self._let_go(item, self._held, wanted=frame.sampled or self._wants(item))
            return
        span.attempts = attempts = item.attempts
        if item._sparse is not None and item.stalled_ns:  # noqa: SLF001  # as above
            span.held_ns = item.stalled_ns
        started_ns = item.started_ns
        if attempts < 2 and started_ns:
            span.wait_ns = started_ns - item.pulled_ns
        else:
            span.wait_ns = item.queue_wait_ns
            if attempts > 1 and frame.recording:
                self._tell_attempt(item, span)
        state = item.status
        if state != "ok" and state != "resumed" and frame.recording:
            span.complete()
            set_failed(span, item)
        elif span.additions is not None:
            span.complete()
        span.end_ns = item.finished_ns
        wanted = True
        if self._held is not None:
            wanted = self._wants(item)
            self._let_go(item, self._held, wanted=wanted)
        if wanted and frame.sampled:
            if self._outer is None or not self._outer.take(numbers_of(item.ids)[1], span):
                frame.hand_over(span)
        else:
            item.unkept = True
            self.unsampled += 1
        self._end()

    def batch_ended(self, batch: BatchRecord) -> None:
        """End the batch span, after the last of the items'."""
        if self._target is not None:
            self._target.look(_LOOK_EVERY)
        super().batch_ended(batch)

    # -- within -----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """A span that is not plain has ended: look after as many as if it were, for it may stand where those look."""
        self.ended = ended = self.ended + 1
        if self._target is not None and not ended % _LOOK_EVERY:
            self._target.look(_LOOK_EVERY)

    def _wants(self, item: ItemRecord) -> bool:
        return self._tail is not None and is_wanted(item, self._tail)

    def _let_go(self, item: ItemRecord, held: SpanBuffer, *, wanted: bool) -> None:
        """Hand over what stands under the item's span, or forget it."""
        for span in held.close(numbers_of(item.ids)[1]):
            if wanted:
                self._provider.hand_over(span)

    def _hold(self, ids: bytes) -> None:
        """An item has begun for whose end other spans wait."""
        _, span_id = numbers_of(ids)
        if self._held is not None:
            self._held.open(span_id)
        elif self._outer is not None and self._parent is not None:
            self._outer.start(span_id, self._parent.span_id)

    def _new_ids(self) -> bytes:
        generator = self._provider.id_generator
        return make_ids(self._trace_id or generator.generate_trace_id(), generator.generate_span_id())

    def _decides_once(self) -> bool:
        """Whether the sampler says the same of every item: it may look at the trace's id, which roots do not share."""
        sampler = self._provider.sampler
        if type(sampler) in _PARENT_BASED:
            alike = _CHILDREN_ALIKE if self._links is None else _ROOTS_ALIKE
            return alike.search(str(sampler.get_description())) is not None
        return type(sampler) is StaticSampler or (type(sampler) is TraceIdRatioBased and self._links is None)

    def _bound_of_ids(self) -> int | None:
        """The bound of the SDK's own sampler by ratio, which looks at a root's trace id alone: its lower 64 bits."""
        if self._links is None:
            return None
        sampler: Any = self._provider.sampler
        root = getattr(sampler, "_root", None) if type(sampler) in _PARENT_BASED else sampler
        return root.bound if type(root) is TraceIdRatioBased else None

    def _ask(self, ids: bytes, index: int) -> SpanFrame:
        """The frame for what the sampler says of one item."""
        own = (
            {"flowrt.item.index": index, "flowrt.item.queue_wait": 0.0}
            if self._prompt
            else {"flowrt.item.index": index}
        )
        result = self._provider.sampler.should_sample(
            self._base, numbers_of(ids)[0], self._item_name, SpanKind.INTERNAL, self._common | own, self._links
        )
        # a sampler may add attributes of its own, which then come before those in no order that anybody sees
        added = {key: value for key, value in (result.attributes or {}).items() if key not in own}
        key = (result.decision, result.trace_state, tuple(added.items()))
        try:
            return self._frames[key]
        except (KeyError, TypeError):  # not seen before, or an attribute that is a list
            pass
        frame = self._make_frame(result.decision, result.trace_state, added)
        try:
            if len(self._frames) < 64:
                self._frames[key] = frame
        except TypeError:
            pass
        return frame

    def _make_frame(self, decision: Any, trace_state: Any, attributes: dict[str, Any]) -> SpanFrame:
        provider, parent = self._provider, self._parent
        flags = TraceFlags.SAMPLED if decision.is_sampled() else TraceFlags.DEFAULT
        if parent is not None:
            random = bool(parent.trace_flags & 0x02)
        else:
            is_random = getattr(provider.id_generator, "is_trace_id_random", None)
            random = is_random is not None and bool(is_random())
        frame = SpanFrame(
            name=self._item_name,
            resource=provider.resource,
            scope=SCOPE,
            limits=provider.limits,
            attributes=attributes,
            links=tuple(self._links or ()),
            parent=parent,
            flags=TraceFlags(flags | (0x02 if random else 0)),
            trace_state=trace_state,
            recording=decision.is_recording(),
            offset_ns=self._offset_ns,
            hand_over=provider.hand_over,
            prompt=self._prompt,
        )
        frame.swift = frame.sampled and not self._holds
        if frame.swift and self._target is not None and template_of(frame).takes_plain:
            frame.append = self._target.append
        return frame
