"""OTLP protobuf encoder that writes spans straight into bytes.

The fields and their numbers are those of opentelemetry-proto's `trace/v1/trace.proto` and `common/v1/common.proto`.
An item span without additions consists of constants, except for its ids, times and index. The constants are encoded
once per batch, and one `struct.pack` writes the whole span when the item ends. That is cheaper than a queue of the
values that differ, which another thread would have to take apart, and bytes are no work for the garbage collector.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from flowrt.telemetry.tracing.attributes import drop
from flowrt.telemetry.tracing.batch_span import BatchSpan
from flowrt.telemetry.tracing.otlp_messages import (
    attributes_field,
    each_field,
    event_of,
    flags_field,
    link_of,
    scope_of,
    status_of,
    trace_state_of,
)
from flowrt.telemetry.tracing.protobuf import (
    FIXED64,
    LENGTH,
    VARINT,
    bytes_field,
    fixed64,
    key_of,
    message,
    number,
    text,
    varint,
)
from flowrt.telemetry.tracing.span import Additions, ItemSpan
from flowrt.telemetry.tracing.span_frame import SCOPE, SpanFrame

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["END_KEY", "START_KEY", "Template", "encode_spans", "shared_attributes", "template_of"]

EncodeOthers = Callable[[Sequence["ReadableSpan"]], bytes]

START_KEY: Final = 0x39
"""Key of a span's start: field 7, of 64 bits."""
END_KEY: Final = 0x41
"""Key of a span's end: field 8, of 64 bits."""

Block = tuple[int, Callable[..., bytes], int, bytes, bytes]
"""Constants of 128 spans: the upper bits of their indices, the joiner of the parts, what to subtract from an index to
get its lowest byte, and the bytes before and after that one."""

_KIND_INTERNAL: Final = 1  # SPAN_KIND_INTERNAL

_TRACE_ID_KEY: Final = b"\x0a\x10"  # field 1, of 16 bytes
_PARENT_KEY: Final = b"\x22\x08"  # field 4, of 8 bytes
_MAX_BLOCKS: Final = 1_024
_MAX_ORIGINS: Final = 16
_pack_double: Final = struct.Struct("<d").pack
_pack_ids_and_times: Final = struct.Struct("<2s26sBQBQ").pack


def encode_spans(spans: Sequence[Any], encode_others: EncodeOthers, resource: Resource | None = None) -> bytes:
    """Encode spans as one ExportTraceServiceRequest.

    Args:
        spans: Plain spans that are encoded already, item spans and SDK spans, mixed.
        encode_others: Encodes SDK spans as a request; concatenated requests are a valid request.
        resource: The resource of the plain spans; their scope is `SCOPE`.

    Raises:
        TypeError: There are plain spans and no resource.
    """
    try:
        plain, rest = b"".join(spans), []
    except TypeError:  # not all of them are plain
        plain = b"".join([span for span in spans if type(span) is bytes])
        rest = [span for span in spans if type(span) is not bytes]
    parts: list[bytes] = []
    if plain:
        if resource is None:
            raise TypeError("plain spans need a resource")
        _envelope_of(resource, SCOPE).enclose(plain, parts)
    if rest:
        _encode_rest(rest, encode_others, parts)
    return b"".join(parts)


def _encode_rest(spans: list[Any], encode_others: EncodeOthers, parts: list[bytes]) -> None:
    """Encode spans that are not plain, and append the parts of the request."""
    others: list[ReadableSpan] = []
    by_origin: dict[tuple[int, int], tuple[Envelope, list[bytes]]] = {}
    for span in spans:
        kind = type(span)
        if kind is ItemSpan or kind is BatchSpan:
            frame = span.frame
            envelope = _envelope_of(frame.resource, frame.scope)
            _, encoded = by_origin.setdefault(envelope.origin, (envelope, []))
            encoded.append(_encode_batch(span) if kind is BatchSpan else template_of(frame).encode(span))
        else:
            others.append(span)
    for envelope, encoded in by_origin.values():
        envelope.enclose(b"".join(encoded), parts)
    if others:
        parts.append(encode_others(others))


class Envelope:
    """Encoded resource and scope that enclose the spans of one origin.

    Args:
        resource: The provider's resource.
        scope: The tracer's instrumentation scope.
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self.origin = id(resource), id(scope)
        self._of = resource, scope  # a reference keeps other objects from getting the same `id()`
        self._scope_head = message(1, scope_of(scope))
        self._scope_tail = text(3, scope.schema_url)
        self._resource_head = message(1, attributes_field(1, resource.attributes)[0])
        self._resource_tail = text(3, resource.schema_url)

    def enclose(self, spans: bytes, parts: list[bytes]) -> None:
        """Append the request's field `resource_spans` with one scope, in parts: a single join copies them once.

        Args:
            spans: Encoded spans, each as the scope's field `spans`.
            parts: List that the parts are appended to.
        """
        scope_size = len(self._scope_head) + len(spans) + len(self._scope_tail)
        before_scope = key_of(2, LENGTH) + varint(scope_size)
        size = len(self._resource_head) + len(before_scope) + scope_size + len(self._resource_tail)
        parts += (key_of(1, LENGTH), varint(size), self._resource_head, before_scope, self._scope_head)
        parts += (spans, self._scope_tail, self._resource_tail)


_envelopes: Final[dict[tuple[int, int], Envelope]] = {}


def _envelope_of(resource: Resource, scope: InstrumentationScope) -> Envelope:
    """The envelope of an origin; a process has few."""
    envelope = _envelopes.get((id(resource), id(scope)))
    if envelope is None:
        if len(_envelopes) >= _MAX_ORIGINS:
            _envelopes.clear()
        envelope = Envelope(resource, scope)
        _envelopes[envelope.origin] = envelope
    return envelope


def template_of(frame: SpanFrame) -> Template:
    """The frame's template, made at the first call."""
    if frame.template is None:
        frame.template = Template(frame)
    template: Template = frame.template
    return template


class Template:
    """Encoded constants of a batch's spans.

    Protobuf fields may come in any order. The constants therefore form two pieces: one up to the lowest 7 bits of the
    index, and one from there to the queue wait, which is 0 for nearly every item. The second contains the other bits
    of the index, so it changes every 128 items.

    Args:
        frame: The batch's frame.

    Attributes:
        takes_plain: True if a span without additions is within the span limits.
        latest: Constants of the 128 spans that `encode_plain` was called for last, as the arguments of a caller that
            joins the parts of a span itself: spans end nearly in the order of their indices.
    """

    __slots__ = ("_blocks", "_head", "_offset_ns", "latest", "takes_plain")

    def __init__(self, frame: SpanFrame) -> None:
        self.takes_plain = _fits(frame)
        self._offset_ns = frame.offset_ns
        self._head = _head_of(frame)
        self._blocks: dict[int, Block] = {}
        self.latest = self._make_block(0)

    def encode(self, span: ItemSpan) -> bytes:
        """Encode an item span as the scope's field `spans`."""
        additions = span.additions
        if additions is not None:
            return _encode_whole(span, additions)
        if span.wait_ns < 0 or span.attempts > 1 or not self.takes_plain:
            return _encode_whole(span, span.complete())
        return self.encode_plain(span.ids, span.index, span.start_ns, span.end_ns, span.wait_ns, span.delayed_ns)

    def encode_plain(
        self, ids: bytes, index: int, start_ns: int, end_ns: int, wait_ns: int = 0, delayed_ns: int = 0
    ) -> bytes:
        """Encode an item span without additions as the scope's field `spans`.

        Args:
            ids: Ids as `ids.py` encodes them.
            index: The item's index in the input.
            start_ns: Start time on the batch's clock.
            end_ns: End time on the batch's clock.
            wait_ns: The item's queue wait, in nanoseconds.
            delayed_ns: Time for which stalls of the loop delayed the item, in nanoseconds.
        """
        self.latest = _, pack, lowest, before, tail = self._blocks.get(index >> 7) or self._make_block(index >> 7)
        if wait_ns:
            tail = tail[:-10] + _pack_double(wait_ns / 1e9) + _TRACE_ID_KEY
        start_ns, end_ns = start_ns + self._offset_ns, end_ns + self._offset_ns
        span = pack(before, index - lowest, tail, ids, START_KEY, start_ns, END_KEY, end_ns)
        return _with(span, _DELAYED_KEY + _pack_double(delayed_ns / 1e9)) if delayed_ns else span

    def _make_block(self, block: int) -> Block:
        lowest, index, tail = _parts_of_index(block)
        start, pack = _joiner(len(self._head) + len(index), len(tail))
        if len(self._blocks) >= _MAX_BLOCKS:
            self._blocks.clear()
        made = self._blocks[block] = block, pack, lowest, start + self._head + index, tail
        return made


@lru_cache(maxsize=64)  # most batches have the same few blocks
def _parts_of_index(block: int) -> tuple[int, bytes, bytes]:
    """Return the number to subtract from an index for its lowest byte, and the bytes before and after that byte."""
    more = varint(block) if block else b""
    value_size = 2 + len(more)
    index = key_of(9, LENGTH) + varint(len(_INDEX_KEY) + 2 + value_size) + _INDEX_KEY + key_of(2, LENGTH)
    lowest = (block << 7) - (0x80 if block else 0)  # the varint's continuation bit is set
    return lowest, index + varint(value_size) + key_of(3, VARINT), more + _WAIT + _TRACE_ID_KEY


@lru_cache(maxsize=1_024)
def _joiner(before: int, tail: int) -> tuple[bytes, Callable[..., bytes]]:
    """Return the key and the length of a plain span, and the joiner of its parts, by the sizes of its constants."""
    start = key_of(2, LENGTH) + varint(before + 1 + tail + 26 + 9 + 9)
    return start, struct.Struct(f"<{len(start) + before}sB{tail}s26sBQBQ").pack


def _fits(frame: SpanFrame) -> bool:
    """True if spans without additions are within the limits; else `complete` applies the limits to each span."""
    limits = frame.limits
    fits = limits.max_span_attributes is None or limits.max_span_attributes >= len(frame.attributes) + 3
    short = limits.max_span_attribute_length
    whole = short is None or all(len(str(value)) <= short for value in frame.attributes.values())
    return fits and whole and (limits.max_links is None or limits.max_links >= len(frame.links))


def _head_of(frame: SpanFrame) -> bytes:
    """All constants of the frame's spans, but for those about the index and the queue wait."""
    links = each_field(13, link_of, frame.links)[0] if frame.links else b""
    return b"".join((_origin(frame), _name_kind_and_status(frame.name), links, shared_attributes(frame.attributes)))


def shared_attributes(attributes: Mapping[str, Any]) -> bytes:
    """Encode a frame's attributes, most of which are the same for many batches."""
    encoded = []
    for key, value in attributes.items():
        kind = type(value)
        if key == _ID and kind is str and len(value) == _ID_CHARS and value.isascii():
            encoded.append(_BEFORE_ID + value.encode())
        elif kind is str or kind is int:
            encoded.append(_shared(key, value))
        else:  # of a sampler
            encoded.append(attributes_field(9, {key: value})[0])
    return b"".join(encoded)


@lru_cache(maxsize=1_024)
def _shared(key: str, value: str | int) -> bytes:
    return attributes_field(9, {key: value})[0]


@lru_cache(maxsize=256)
def _name_kind_and_status(name: str) -> bytes:
    return text(5, name) + number(6, _KIND_INTERNAL) + message(15, b"")


def _origin(frame: SpanFrame) -> bytes:
    """Trace state, parent and flags."""
    if frame.above is not None:
        own = _PARENT_KEY + frame.above.ids[-8:] + flags_field(None)
    elif (parent := frame.parent) is not None:
        own = _PARENT_KEY + parent.span_id.to_bytes(8, "big") + flags_field(parent)
    else:
        own = flags_field(None)
    return text(3, trace_state_of(frame.trace_state)) + own if frame.trace_state else own


def _encode_batch(span: ItemSpan) -> bytes:
    """Encode a batch span as the scope's field `spans`."""
    frame, ids = span.frame, span.ids
    if span.additions is not None or not _fits(frame):
        return _encode_whole(span, span.complete())
    return message(
        2,
        b"".join(
            (
                _pack_ids_and_times(
                    _TRACE_ID_KEY,
                    ids,
                    START_KEY,
                    span.start_ns + frame.offset_ns,
                    END_KEY,
                    span.end_ns + frame.offset_ns,
                ),
                _origin(frame),
                _name_kind_and_status(frame.name),
                shared_attributes(frame.attributes),
            )
        ),
    )


def _encode_whole(span: ItemSpan, additions: Additions) -> bytes:
    """Encode a span with additions. Parts that OTLP cannot represent are left out and counted."""
    ids, frame = span.ids, span.frame
    attributes, events, links = additions.attributes, additions.events, additions.links
    encoded_attributes, bad_attributes = attributes_field(9, attributes)
    encoded_events, bad_events = each_field(11, event_of, events)
    encoded_links, bad_links = each_field(13, link_of, links)
    if not additions.counted:  # a request that is too large is split and encoded again
        additions.counted = True
        for key, exc in (*bad_attributes, *bad_events, *bad_links):
            drop(key, exc)
    return message(
        2,
        b"".join(
            (
                bytes_field(1, ids[:16]),
                bytes_field(2, ids[-8:]),
                _origin(frame),
                text(5, str(additions.name)),
                number(6, _KIND_INTERNAL),
                fixed64(7, span.start_ns + frame.offset_ns),
                fixed64(8, span.end_ns + frame.offset_ns),
                encoded_attributes,
                number(10, attributes.dropped + len(bad_attributes)),
                encoded_events,
                number(12, events.dropped + len(bad_events)),
                encoded_links,
                number(14, links.dropped + len(bad_links)),
                message(15, status_of(additions.status)),
            )
        ),
    )


def _with(span: bytes, more: bytes) -> bytes:
    """Append one field to an encoded span."""
    start = 2
    while span[start - 1] & 0x80:  # past the key and the length
        start += 1
    return message(2, span[start:] + more)


_ID: Final = "flowrt.batch.id"
_ID_CHARS: Final = 32
_BEFORE_ID: Final = attributes_field(9, {_ID: " " * _ID_CHARS})[0][:-_ID_CHARS]
_INDEX_KEY: Final = text(1, "flowrt.item.index")
_WAIT: Final = message(9, text(1, "flowrt.item.queue_wait") + message(2, key_of(4, FIXED64) + bytes(8)))
_DELAYED_KEY: Final = message(9, text(1, "flowrt.item.held") + message(2, key_of(4, FIXED64) + bytes(8)))[:-8]
