"""OTLP's messages inside a span: attributes, events, links, status and flags."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, TraceState

from flowrt.telemetry.tracing.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    bytes_field,
    fixed64,
    key_of,
    message,
    number,
    text,
    utf8,
    varint,
)

__all__ = ["attributes_field", "each_field", "event_of", "flags_field", "link_of", "scope_of", "status_of"]
__all__ += ["trace_state_of"]

_STATUS_CODES: Final = {"UNSET": 0, "OK": 1, "ERROR": 2}
_UINT64: Final = (1 << 64) - 1
_MIN_INT64: Final = -(1 << 63)
_MAX_INT64: Final = (1 << 63) - 1
_FEW: Final = 256  # larger numbers are not kept in memory
_KNOWS_REMOTE: Final = 0x100  # SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_IS_REMOTE: Final = 0x200  # SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_FLAGS_LOCAL: Final = key_of(16, FIXED32) + struct.pack("<I", _KNOWS_REMOTE)
_FLAGS_REMOTE: Final = key_of(16, FIXED32) + struct.pack("<I", _KNOWS_REMOTE | _IS_REMOTE)


def scope_of(scope: InstrumentationScope) -> bytes:
    return text(1, scope.name) + text(2, scope.version) + attributes_field(3, scope.attributes)[0]


def event_of(event: Event) -> bytes:
    attributes, bad = attributes_field(3, event.attributes)
    return b"".join(
        (
            fixed64(1, event.timestamp),
            text(2, str(event.name)),
            attributes,
            number(4, event.dropped_attributes + len(bad)),
        )
    )


def link_of(link: Link) -> bytes:
    context = link.context
    attributes, bad = attributes_field(4, link.attributes)
    return b"".join(
        (
            bytes_field(1, context.trace_id.to_bytes(16, "big")),
            bytes_field(2, context.span_id.to_bytes(8, "big")),
            attributes,
            number(5, link.dropped_attributes + len(bad)),
            key_of(6, FIXED32) + flags_field(context)[len(key_of(16, FIXED32)) :],
        )
    )


def status_of(status: Status) -> bytes:
    return text(2, status.description) + number(3, _STATUS_CODES[status.status_code.name])


def flags_field(context: SpanContext | None) -> bytes:
    return _FLAGS_REMOTE if context is not None and context.is_remote else _FLAGS_LOCAL


def trace_state_of(state: TraceState | None) -> str:
    return ",".join([f"{key}={value}" for key, value in state.items()]) if state else ""


Bad = list[tuple[Any, Exception]]
"""Parts that OTLP cannot represent, each with the reason."""


def attributes_field(field: int, attributes: Mapping[str, Any] | None) -> tuple[bytes, Bad]:
    """Encode attributes as KeyValues. Values that OTLP cannot represent are left out and returned."""
    if not attributes:
        return b"", []
    encoded, bad = [], []
    for key, value in attributes.items():
        kind = type(value)
        if type(key) is str:
            if kind is str:
                data = utf8(value)
                encoded.append(_head_of_text(field, key, len(data)))
                encoded.append(data)
                continue
            if kind is int and 0 <= value < _FEW:
                encoded.append(_field_of_number(field, key, value))
                continue
        try:
            encoded.append(message(field, _key_value((key, value))))
        except Exception as exc:
            bad.append((key, exc))
    return b"".join(encoded), bad


def _key_value(attribute: tuple[str, Any]) -> bytes:
    key, value = attribute
    return text(1, key) + message(2, _value(value))


@lru_cache(maxsize=2_048)  # names are the same in every batch, and numbers in many
def _field_of_number(field: int, key: str, value: int) -> bytes:
    return message(field, _key_value((key, value)))


@lru_cache(maxsize=2_048)  # by the text's size, as the ids of batches differ and are equally long
def _head_of_text(field: int, key: str, size: int) -> bytes:
    """All but the text of an attribute that is a text."""
    value = key_of(1, LENGTH) + varint(size)
    before = text(1, key) + key_of(2, LENGTH) + varint(len(value) + size) + value
    return key_of(field, LENGTH) + varint(len(before) + size) + before


def each_field(field: int, encode: Callable[[Any], bytes], parts: Iterable[Any]) -> tuple[bytes, Bad]:
    encoded, bad = [], []
    for part in parts:
        try:
            encoded.append(message(field, encode(part)))
        except Exception as exc:
            bad.append((part[0] if isinstance(part, tuple) else part, exc))
    return b"".join(encoded), bad


def _value(value: Any) -> bytes:
    """An AnyValue."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return key_of(2, VARINT) + (b"\x01" if value else b"\x00")
    if isinstance(value, str):
        return message(1, utf8(value))
    if isinstance(value, int):
        # An exact int: `value in range(...)` searches a subclass item by item, and `&` of one may run its own code.
        number = operator.index(value)
        if not _MIN_INT64 <= number <= _MAX_INT64:
            raise OverflowError("the integer does not fit into 64 bits")
        return key_of(3, VARINT) + varint(number & _UINT64)
    if isinstance(value, float):
        return key_of(4, FIXED64) + struct.pack("<d", value)
    if isinstance(value, bytes):
        return message(7, value)
    if isinstance(value, Mapping):
        return message(6, b"".join(message(1, text(1, str(k)) + message(2, _value(v))) for k, v in value.items()))
    if isinstance(value, Sequence):
        return message(5, b"".join(message(1, _value(each)) for each in value))
    raise TypeError(f"{type(value).__name__} is no attribute value")
