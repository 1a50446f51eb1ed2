"""Protobuf's wire format: the few kinds of fields that spans are made of."""

from __future__ import annotations

import struct
from functools import cache
from typing import Final

__all__ = ["FIXED32", "FIXED64", "LENGTH", "VARINT", "bytes_field", "fixed64", "key_of", "message", "number", "text"]
__all__ += ["utf8", "varint"]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types

_SMALL: Final = [bytes((value,)) for value in range(0x80)]


def varint(value: int) -> bytes:
    """Encode an integer that is not negative, 7 bits to a byte."""
    if value < 0x80:
        return _SMALL[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@cache  # there are few fields
def key_of(field: int, wire_type: int) -> bytes:
    """Encode a field's number and wire type."""
    return varint(field << 3 | wire_type)


def message(field: int, content: bytes) -> bytes:
    """Encode a field of that content, with its length."""
    return key_of(field, LENGTH) + varint(len(content)) + content


def bytes_field(field: int, content: bytes) -> bytes:
    """Encode a field of bytes; nothing if there are none."""
    return message(field, content) if content else b""


def utf8(text: str) -> bytes:
    """Encode a text as UTF-8, with lone surrogates escaped."""
    return str.encode(text, "utf-8", "backslashreplace")


def text(field: int, text: str | None) -> bytes:
    """Encode a field of text; nothing if it is empty."""
    return message(field, utf8(text)) if text else b""


def number(field: int, value: int) -> bytes:
    """Encode a field with an integer that is not negative; nothing if it is 0."""
    return key_of(field, VARINT) + varint(value) if value else b""


def fixed64(field: int, value: int) -> bytes:
    """Encode a field of 64 bits; nothing if it is 0."""
    return key_of(field, FIXED64) + struct.pack("<Q", value) if value else b""
