"""OTLP protobuf encoder that writes spans straight into bytes.

The fields and their numbers are those of opentelemetry-proto's `trace/v1/trace.proto` and `common/v1/common.proto`.
An item span without additions consists of constants, except for its ids, times and index. The constants are encoded
once per batch, and one `struct.pack` writes the whole span. The export queue holds only the values that differ, as a
`PlainSpan`, and one loop encodes many of them, which is cheaper than one call per span.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, TraceState

from flowrt.telemetry.tracing.attributes import drop
from flowrt.telemetry.tracing.span import Additions, ItemSpan
from flowrt.telemetry.tracing.span_frame import SpanFrame

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["PlainSpan", "Template", "encode_spans", "template_of"]

EncodeOthers = Callable[[Sequence["ReadableSpan"]], bytes]

PlainSpan = tuple["Template", bytes, int, int, int, int, int]
"""Ended span without additions: its batch's template, ids, index, start, end, the item's queue wait, and the time for
which stalls delayed it. Times are in nanoseconds on the batch's clock."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_KIND_INTERNAL: Final = 1  # SPAN_KIND_INTERNAL
_KNOWS_REMOTE: Final = 0x100  # SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_IS_REMOTE: Final = 0x200  # SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_STATUS_CODES: Final = {"UNSET": 0, "OK": 1, "ERROR": 2}
_UINT64: Final = (1 << 64) - 1
_MIN_INT64: Final = -(1 << 63)
_MAX_INT64: Final = (1 << 63) - 1

_TRACE_ID_KEY: Final = b"\x0a\x10"  # field 1, of 16 bytes
_START_KEY: Final = 0x39  # field 7, of 64 bits
_END_KEY: Final = 0x41  # field 8, of 64 bits
_MAX_BLOCKS: Final = 1_024
_pack_double: Final = struct.Struct("<d").pack


def encode_spans(spans: Iterable[Any], encode_others: EncodeOthers) -> bytes:
    """Encode spans as one ExportTraceServiceRequest.

    Args:
        spans: Item spans, plain spans and SDK spans, mixed.
        encode_others: Encodes SDK spans as a request; concatenated requests are a valid request.
    """
    others: list[ReadableSpan] = []
    plain: dict[Template, list[PlainSpan]] = {}
    by_frame: dict[SpanFrame, list[ItemSpan]] = {}
    at: Template | None = None
    its_plain: list[PlainSpan] = []
    for span in spans:
        kind = type(span)
        if kind is tuple:
            if span[0] is not at:
                at = span[0]
                its_plain = plain.setdefault(at, [])
            its_plain.append(span)
        elif kind is ItemSpan:
            by_frame.setdefault(span.frame, []).append(span)
        else:
            others.append(span)

    by_origin: dict[tuple[int, int], tuple[Envelope, list[bytes]]] = {}
    for template, its_plain in plain.items():
        _, encoded = by_origin.setdefault(template.envelope.origin, (template.envelope, []))
        template.encode_plain(its_plain, encoded)
    for frame, its_spans in by_frame.items():
        template = template_of(frame)
        _, encoded = by_origin.setdefault(template.envelope.origin, (template.envelope, []))
        encoded += map(template.encode, its_spans)

    parts: list[bytes] = []
    for envelope, encoded in by_origin.values():
        envelope.enclose(encoded, parts)
    if others:
        parts.append(encode_others(others))
    return b"".join(parts)


class Envelope:
    """Encoded resource and scope that enclose the spans of one origin.

    Args:
        resource: The provider's resource.
        scope: The tracer's instrumentation scope.
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self.origin = id(resource), id(scope)
        self._of = resource, scope  # a reference keeps other objects from getting the same `id()`
        self._scope_head = _message(1, _scope(scope))
        self._scope_tail = _text(3, scope.schema_url)
        self._resource_head = _message(1, _attributes(1, resource.attributes)[0])
        self._resource_tail = _text(3, resource.schema_url)

    def enclose(self, spans: list[bytes], parts: list[bytes]) -> None:
        """Append the request's field `resource_spans` with one scope, in parts: a single join copies them once.

        Args:
            spans: Encoded spans, each as the scope's field `spans`.
            parts: List that the parts are appended to.
        """
        scope_size = len(self._scope_head) + sum(map(len, spans)) + len(self._scope_tail)
        before_scope = _key(2, _LENGTH) + _varint(scope_size)
        size = len(self._resource_head) + len(before_scope) + scope_size + len(self._resource_tail)
        parts += (_key(1, _LENGTH), _varint(size), self._resource_head, before_scope, self._scope_head)
        parts += spans
        parts += (self._scope_tail, self._resource_tail)


def template_of(frame: SpanFrame) -> Template:
    """The frame's template, made at the first call."""
    if frame.template is None:
        frame.template = Template(frame)
    template: Template = frame.template
    return template


class Template:
    """Encoded constants of a batch's spans.

    Args:
        frame: The batch's frame.

    Attributes:
        envelope: Envelope of the spans.
        takes_plain: True if a span without additions is within the span limits.
        encode_plain: Encodes plain spans and appends each to a list, as the scope's field `spans`.
    """

    def __init__(self, frame: SpanFrame) -> None:
        self.envelope = Envelope(frame.resource, frame.scope)
        self._offset_ns = frame.offset_ns
        self._parent = b"" if frame.parent is None else _bytes(4, frame.parent.span_id.to_bytes(8, "big"))
        self._state = _text(3, _trace_state(frame.trace_state))
        self._flags = _key(16, _FIXED32) + struct.pack("<I", _flags(frame.parent))
        # With a tiny limit even the constants do not fit; then `complete` applies the limits to each span.
        limits = frame.limits
        fits = limits.max_span_attributes is None or limits.max_span_attributes >= len(frame.attributes) + 3
        short = limits.max_span_attribute_length
        whole = short is None or all(len(str(value)) <= short for value in frame.attributes.values())
        linked = limits.max_links is None or limits.max_links >= len(frame.links)
        self.takes_plain = fits and whole and linked
        self.encode_plain = self._plain_encoder(frame)

    def encode(self, span: ItemSpan) -> bytes:
        """Encode an item span as the scope's field `spans`."""
        additions = span.additions
        if additions is not None:
            return self._encode_whole(span, additions)
        if span.wait_ns < 0 or span.attempts > 1 or not self.takes_plain:
            return self._encode_whole(span, span.complete())
        encoded: list[bytes] = []
        self.encode_plain(
            [(self, span.ids, span.index, span.start_ns, span.end_ns, span.wait_ns, span.delayed_ns)], encoded
        )
        return encoded[0]

    def _plain_encoder(self, frame: SpanFrame) -> Callable[[Iterable[PlainSpan], list[bytes]], None]:
        """Make the encoder of plain spans: a closure, since its variables are faster to reach than attributes.

        Protobuf fields may come in any order. The constants therefore form two pieces: one up to the lowest 7 bits of
        the index, and one from there to the queue wait, which is 0 for nearly every item. The second contains the
        other bits of the index, so it changes every 128 items.
        """
        head = b"".join(
            (
                self._state,
                self._parent,
                _text(5, frame.name),
                _number(6, _KIND_INTERNAL),
                _each(13, _link, frame.links)[0],
                _message(15, b""),
                self._flags,
                _attributes(9, frame.attributes)[0],
            )
        )
        wait = _message(9, _text(1, "flowrt.item.queue_wait") + _message(2, _key(4, _FIXED64) + bytes(8)))
        delayed_key = _message(9, _text(1, "flowrt.item.held") + _message(2, _key(4, _FIXED64) + bytes(8)))[:-8]
        offset_ns = self._offset_ns
        blocks: dict[int, tuple[Callable[..., bytes], int, bytes, bytes]] = {}

        def add_block(number: int) -> tuple[Callable[..., bytes], int, bytes, bytes]:
            more = _varint(number) if number else b""
            key, value = _text(1, "flowrt.item.index"), _key(3, _VARINT)
            value_size = len(value) + 1 + len(more)
            index = _key(9, _LENGTH) + _varint(len(key) + 2 + value_size) + key + _key(2, _LENGTH)
            before = head + index + _varint(value_size) + value
            tail = more + wait + _TRACE_ID_KEY
            size = len(before) + 1 + len(tail) + 26 + 9 + 9
            before = _key(2, _LENGTH) + _varint(size) + before
            if len(blocks) >= _MAX_BLOCKS:
                blocks.clear()
            pack = struct.Struct(f"<{len(before)}sB{len(tail)}s26sBQBQ").pack
            lowest = (number << 7) - (0x80 if number else 0)  # the varint's continuation bit is set
            block = blocks[number] = pack, lowest, before, tail
            return block

        def encode_all(spans: Iterable[PlainSpan], encoded: list[bytes]) -> None:
            add, block_of = encoded.append, blocks.get
            for _, ids, index, start_ns, end_ns, wait_ns, delayed_ns in spans:
                pack, lowest, before, tail = block_of(index >> 7) or add_block(index >> 7)
                if wait_ns:
                    tail = tail[:-10] + _pack_double(wait_ns / 1e9) + _TRACE_ID_KEY
                span = pack(
                    before, index - lowest, tail, ids, _START_KEY, start_ns + offset_ns, _END_KEY, end_ns + offset_ns
                )
                add(_with(span, delayed_key + _pack_double(delayed_ns / 1e9)) if delayed_ns else span)

        return encode_all

    def _encode_whole(self, span: ItemSpan, additions: Additions) -> bytes:
        """Encode a span with additions. Parts that OTLP cannot represent are left out and counted."""
        ids = span.ids
        attributes, events, links = additions.attributes, additions.events, additions.links
        encoded_attributes, bad_attributes = _attributes(9, attributes)
        encoded_events, bad_events = _each(11, _event, events)
        encoded_links, bad_links = _each(13, _link, links)
        if not additions.counted:  # a request that is too large is split and encoded again
            additions.counted = True
            for key, exc in (*bad_attributes, *bad_events, *bad_links):
                drop(key, exc)
        return _message(
            2,
            b"".join(
                (
                    _bytes(1, ids[:16]),
                    _bytes(2, ids[-8:]),
                    self._state,
                    self._parent,
                    _text(5, str(additions.name)),
                    _number(6, _KIND_INTERNAL),
                    _fixed64(7, span.start_ns + self._offset_ns),
                    _fixed64(8, span.end_ns + self._offset_ns),
                    encoded_attributes,
                    _number(10, attributes.dropped + len(bad_attributes)),
                    encoded_events,
                    _number(12, events.dropped + len(bad_events)),
                    encoded_links,
                    _number(14, links.dropped + len(bad_links)),
                    _message(15, _status(additions.status)),
                    self._flags,
                )
            ),
        )


def _with(span: bytes, more: bytes) -> bytes:
    """Append one field to an encoded span."""
    start = 2
    while span[start - 1] & 0x80:  # past the key and the length
        start += 1
    return _message(2, span[start:] + more)


# -- the messages inside -------------------------------------------------------------------------------------------


def _scope(scope: InstrumentationScope) -> bytes:
    return _text(1, scope.name) + _text(2, scope.version) + _attributes(3, scope.attributes)[0]


def _event(event: Event) -> bytes:
    attributes, bad = _attributes(3, event.attributes)
    return b"".join(
        (
            _fixed64(1, event.timestamp),
            _text(2, str(event.name)),
            attributes,
            _number(4, event.dropped_attributes + len(bad)),
        )
    )


def _link(link: Link) -> bytes:
    context = link.context
    attributes, bad = _attributes(4, link.attributes)
    return b"".join(
        (
            _bytes(1, context.trace_id.to_bytes(16, "big")),
            _bytes(2, context.span_id.to_bytes(8, "big")),
            attributes,
            _number(5, link.dropped_attributes + len(bad)),
            _key(6, _FIXED32) + struct.pack("<I", _flags(context)),
        )
    )


def _status(status: Status) -> bytes:
    return _text(2, status.description) + _number(3, _STATUS_CODES[status.status_code.name])


def _flags(context: SpanContext | None) -> int:
    return _KNOWS_REMOTE | (_IS_REMOTE if context is not None and context.is_remote else 0)


def _trace_state(state: TraceState | None) -> str:
    return ",".join(f"{key}={value}" for key, value in (state or {}).items())


Bad = list[tuple[Any, Exception]]
"""Parts that OTLP cannot represent, each with the reason."""


def _attributes(field: int, attributes: Mapping[str, Any] | None) -> tuple[bytes, Bad]:
    """Encode attributes as KeyValues. Values that OTLP cannot represent are left out and returned."""
    return _each(field, _key_value, (attributes or {}).items())


def _key_value(attribute: tuple[str, Any]) -> bytes:
    key, value = attribute
    return _text(1, key) + _message(2, _value(value))


def _each(field: int, encode: Callable[[Any], bytes], parts: Iterable[Any]) -> tuple[bytes, Bad]:
    encoded, bad = [], []
    for part in parts:
        try:
            encoded.append(_message(field, encode(part)))
        except Exception as exc:
            bad.append((part[0] if isinstance(part, tuple) else part, exc))
    return b"".join(encoded), bad


def _value(value: Any) -> bytes:
    """An AnyValue."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return _key(2, _VARINT) + (b"\x01" if value else b"\x00")
    if isinstance(value, str):
        return _message(1, _utf8(value))
    if isinstance(value, int):
        # An exact int: `value in range(...)` searches a subclass item by item, and `&` of one may run its own code.
        number = operator.index(value)
        if not _MIN_INT64 <= number <= _MAX_INT64:
            raise OverflowError("the integer does not fit into 64 bits")
        return _key(3, _VARINT) + _varint(number & _UINT64)
    if isinstance(value, float):
        return _key(4, _FIXED64) + struct.pack("<d", value)
    if isinstance(value, bytes):
        return _message(7, value)
    if isinstance(value, Mapping):
        return _message(6, b"".join(_message(1, _text(1, str(k)) + _message(2, _value(v))) for k, v in value.items()))
    if isinstance(value, Sequence):
        return _message(5, b"".join(_message(1, _value(each)) for each in value))
    raise TypeError(f"{type(value).__name__} is no attribute value")


# -- protobuf primitives -------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _message(field: int, content: bytes) -> bytes:
    return _key(field, _LENGTH) + _varint(len(content)) + content


def _bytes(field: int, content: bytes) -> bytes:
    return _message(field, content) if content else b""


def _utf8(text: str) -> bytes:
    return str.encode(text, "utf-8", "backslashreplace")


def _text(field: int, text: str | None) -> bytes:
    return _message(field, _utf8(text)) if text else b""


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value) if value else b""


def _fixed64(field: int, value: int) -> bytes:
    return _key(field, _FIXED64) + struct.pack("<Q", value) if value else b""
