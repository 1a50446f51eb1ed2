"""Spans as OTLP protobuf, written straight into bytes.

The fields and their numbers are those of opentelemetry-proto's `trace/v1/trace.proto` and `common/v1/common.proto`.
An item span to which nothing was added has a fixed layout, so its batch's constants are encoded once and one
`struct.pack` writes the whole span.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, TraceState

from flowrt.telemetry.span import Additions, ItemSpan, SpanFrame

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["encode_spans"]

EncodeOthers = Callable[[Sequence["ReadableSpan"]], bytes]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_KIND_INTERNAL: Final = 1  # SPAN_KIND_INTERNAL
_KNOWS_REMOTE: Final = 0x100  # SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_IS_REMOTE: Final = 0x200  # SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_STATUS_CODES: Final = {"UNSET": 0, "OK": 1, "ERROR": 2}
_UINT64: Final = (1 << 64) - 1
_INT64: Final = range(-(1 << 63), 1 << 63)


def encode_spans(spans: Iterable[Any], encode_others: EncodeOthers) -> bytes:
    """One ExportTraceServiceRequest.

    Args:
        spans: Item spans and the SDK's own, mixed.
        encode_others: Encodes the SDK's own as a request; requests joined are a request.
    """
    by_frame: dict[SpanFrame, list[ItemSpan]] = {}
    others: list[ReadableSpan] = []
    last: SpanFrame | None = None
    mine: list[ItemSpan] = []
    for span in spans:
        if span.__class__ is not ItemSpan:
            others.append(span)
            continue
        if span.frame is not last:
            last = span.frame
            mine = by_frame.setdefault(last, [])
        mine.append(span)

    by_scope: dict[tuple[int, int], tuple[SpanFrame, list[bytes]]] = {}
    for frame, its_spans in by_frame.items():
        _, encoded = by_scope.setdefault((id(frame.resource), id(frame.scope)), (frame, []))
        encoded += map(_template_of(frame).encode, its_spans)

    parts: list[bytes] = []
    for frame, encoded in by_scope.values():
        _add_resource_spans(parts, frame.template, encoded)
    if others:
        parts.append(encode_others(others))
    return b"".join(parts)


def _add_resource_spans(parts: list[bytes], template: _Template, spans: list[bytes]) -> None:
    """The request's field `resource_spans`, with one scope, in pieces: joined once, they are copied once."""
    scope_size = len(template.scope_head) + sum(map(len, spans)) + len(template.scope_tail)
    before_scope = _key(2, _LENGTH) + _varint(scope_size) + template.scope_head
    size = len(template.resource_head) + len(before_scope) - len(template.scope_head) + scope_size
    size += len(template.resource_tail)
    parts += (_key(1, _LENGTH), _varint(size), template.resource_head, before_scope)
    parts += spans
    parts += (template.scope_tail, template.resource_tail)


def _template_of(frame: SpanFrame) -> _Template:
    if frame.template is None:
        frame.template = _Template(frame)
    template: _Template = frame.template
    return template


class _Template:
    """A batch's constants, encoded."""

    def __init__(self, frame: SpanFrame) -> None:
        self.scope_head = _message(1, _scope(frame.scope))
        self.scope_tail = _text(3, frame.scope.schema_url)
        self.resource_head = _message(1, _attributes(1, frame.resource.attributes))
        self.resource_tail = _text(3, frame.resource.schema_url)
        self._frame = frame
        self._offset_ns = frame.offset_ns
        self._parent = b"" if frame.parent is None else _bytes(4, frame.parent.span_id.to_bytes(8, "big"))
        self._state = _text(3, _trace_state(frame.trace_state))
        self._flags = _key(16, _FIXED32) + struct.pack("<I", _flags(frame.parent))
        self._layouts: dict[int, tuple[Callable[..., bytes], tuple[bytes, ...]]] = {}
        self._prefixes: dict[int, bytes] = {0: b""}  # the varint of an index's upper bits, which change slowly
        # the attributes' bound: with a tiny one even the constants do not fit, and the slow way knows what goes
        limits = frame.limits
        fits = limits.max_span_attributes is None or limits.max_span_attributes >= len(frame.attributes) + 2
        short = limits.max_span_attribute_length
        whole = short is None or all(len(str(value)) <= short for value in frame.attributes.values())
        linked = limits.max_links is None or limits.max_links >= len(frame.links)
        self._plain = fits and whole and linked

    def encode(self, span: ItemSpan) -> bytes:
        """The scope's field `spans`."""
        additions = span.additions
        if additions is not None:
            return self._encode_whole(span, additions)
        wait_ns = span.wait_ns
        if wait_ns < 0 or span.attempts > 1 or not self._plain:
            return self._encode_whole(span, span.complete())
        index = span.index
        if index < 0x80:
            number = _ONE[index]
        else:
            upper = index >> 7
            prefix = self._prefixes.get(upper)
            if prefix is None:
                if len(self._prefixes) > 256:
                    self._prefixes.clear()
                prefix = self._prefixes[upper] = _varint(upper)
            number = _MORE[index & 0x7F] + prefix
        layout = self._layouts.get(len(number))
        if layout is None:
            layout = self._layouts[len(number)] = self._layout(len(number))
        pack, (head, to_span_id, to_start, to_end, to_index, to_wait, tail) = layout
        ids = span.ids.to_bytes(24, "big")
        offset_ns = self._offset_ns
        return pack(
            head,
            ids[:16],
            to_span_id,
            ids[16:],
            to_start,
            span.start_ns + offset_ns,
            to_end,
            span.end_ns + offset_ns,
            to_index,
            number,
            to_wait,
            wait_ns / 1e9,
            tail,
        )

    def _layout(self, width: int) -> tuple[Callable[..., bytes], tuple[bytes, ...]]:
        """How a span looks whose index's varint has this many bytes."""
        frame = self._frame
        index = _text(1, "flowrt.item.index") + _key(2, _LENGTH) + _varint(1 + width) + _key(3, _VARINT)
        wait = _text(1, "flowrt.item.queue_wait") + _message(2, _key(4, _FIXED64) + b"w" * 8)
        to_start = (
            self._state
            + self._parent
            + _text(5, frame.name)
            + _key(6, _VARINT)
            + _varint(_KIND_INTERNAL)
            + _key(7, _FIXED64)
        )
        to_index = _attributes(9, frame.attributes) + _key(9, _LENGTH) + _varint(len(index) + width) + index
        to_wait = _message(9, wait)[:-8]
        tail = b"".join(_message(13, _link(link)) for link in frame.links) + _message(15, b"") + self._flags
        to_span_id, to_end = _key(2, _LENGTH) + b"\x08", _key(8, _FIXED64)
        head = _key(1, _LENGTH) + b"\x10"
        rest = head, to_span_id, to_start, to_end, to_index, to_wait, tail
        size = sum(map(len, rest)) + 16 + 8 + 8 + 8 + width + 8
        head = _key(2, _LENGTH) + _varint(size) + head
        constants = (head, *rest[1:])
        packing = "<{}s16s{}s8s{}sQ{}sQ{}s{}s{}sd{}s".format(
            *(len(part) for part in constants[:5]), width, *(len(part) for part in constants[5:])
        )
        return struct.Struct(packing).pack, constants

    def _encode_whole(self, span: ItemSpan, additions: Additions) -> bytes:
        """A span to which something was added."""
        ids = span.ids.to_bytes(24, "big")
        attributes, events, links = additions.attributes, additions.events, additions.links
        return _message(
            2,
            b"".join(
                (
                    _bytes(1, ids[:16]),
                    _bytes(2, ids[16:]),
                    self._state,
                    self._parent,
                    _text(5, additions.name),
                    _number(6, _KIND_INTERNAL),
                    _fixed64(7, span.start_ns + self._offset_ns),
                    _fixed64(8, span.end_ns + self._offset_ns),
                    _attributes(9, attributes),
                    _number(10, attributes.dropped),
                    *(_message(11, _event(event)) for event in events),
                    _number(12, events.dropped),
                    *(_message(13, _link(link)) for link in links),
                    _number(14, links.dropped),
                    _message(15, _status(additions.status)),
                    self._flags,
                )
            ),
        )


# -- the messages inside -------------------------------------------------------------------------------------------


def _scope(scope: InstrumentationScope) -> bytes:
    return _text(1, scope.name) + _text(2, scope.version) + _attributes(3, scope.attributes)


def _event(event: Event) -> bytes:
    return b"".join(
        (
            _fixed64(1, event.timestamp),
            _text(2, event.name),
            _attributes(3, event.attributes),
            _number(4, event.dropped_attributes),
        )
    )


def _link(link: Link) -> bytes:
    context = link.context
    return b"".join(
        (
            _bytes(1, context.trace_id.to_bytes(16, "big")),
            _bytes(2, context.span_id.to_bytes(8, "big")),
            _attributes(4, link.attributes),
            _number(5, link.dropped_attributes),
            _key(6, _FIXED32) + struct.pack("<I", _flags(context)),
        )
    )


def _status(status: Status) -> bytes:
    return _text(2, status.description) + _number(3, _STATUS_CODES[status.status_code.name])


def _flags(context: SpanContext | None) -> int:
    return _KNOWS_REMOTE | (_IS_REMOTE if context is not None and context.is_remote else 0)


def _trace_state(state: TraceState | None) -> str:
    return ",".join(f"{key}={value}" for key, value in (state or {}).items())


def _attributes(field: int, attributes: Mapping[str, Any] | None) -> bytes:
    """Each as a KeyValue; one that no format can hold is left out."""
    parts = []
    for key, value in (attributes or {}).items():
        try:
            parts.append(_message(field, _text(1, key) + _message(2, _value(value))))
        except (TypeError, ValueError, RecursionError):
            continue
    return b"".join(parts)


def _value(value: Any) -> bytes:
    """An AnyValue."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return _key(2, _VARINT) + (b"\x01" if value else b"\x00")
    if isinstance(value, str):
        return _message(1, _utf8(value))
    if isinstance(value, int):
        if value not in _INT64:
            raise ValueError(f"{value} does not fit into 64 bits")
        return _key(3, _VARINT) + _varint(value & _UINT64)
    if isinstance(value, float):
        return _key(4, _FIXED64) + struct.pack("<d", value)
    if isinstance(value, bytes):
        return _message(7, value)
    if isinstance(value, Mapping):
        return _message(6, b"".join(_message(1, _text(1, str(k)) + _message(2, _value(v))) for k, v in value.items()))
    if isinstance(value, Sequence):
        return _message(5, b"".join(_message(1, _value(each)) for each in value))
    raise TypeError(f"{type(value).__name__} is no attribute value")


# -- protobuf's own ------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_ONE: Final = [bytes((i,)) for i in range(0x80)]
_MORE: Final = [bytes((i | 0x80,)) for i in range(0x80)]


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _message(field: int, content: bytes) -> bytes:
    return _key(field, _LENGTH) + _varint(len(content)) + content


def _bytes(field: int, content: bytes) -> bytes:
    return _message(field, content) if content else b""


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _text(field: int, text: str | None) -> bytes:
    return _message(field, _utf8(text)) if text else b""


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _varint(value) if value else b""


def _fixed64(field: int, value: int) -> bytes:
    return _key(field, _FIXED64) + struct.pack("<Q", value) if value else b""
