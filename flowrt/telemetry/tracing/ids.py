"""Ids of item spans in OTLP's encoding: 16 bytes of trace id, the key of the span id's field, 8 bytes of span id.

They are drawn some hundred at a time and kept as bytes, since few callers need them as integers.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.id_generator import IdGenerator

try:
    from ssl import RAND_bytes as random_bytes  # asyncio has imported it; twenty times as fast as the others
except ImportError:
    from os import urandom as random_bytes

__all__ = ["SPAN_ID_KEY", "id_pool", "ids_to_ints", "make_ids", "new_ids", "refill_ids"]

SPAN_ID_KEY: Final = b"\x12\x08"  # field 2, of 8 bytes
_SIZE: Final = 16 + len(SPAN_ID_KEY) + 8
_MANY: Final = 256
_split: Final = struct.Struct(f"{_SIZE}s" * _MANY).unpack

id_pool: Final[list[bytes]] = []
"""Unused random ids: `pop` one, and call `refill_ids` if there is none."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=id_pool.clear)  # the parent uses the same ids


def refill_ids() -> bytes:
    """Fill the pool with random ids, and return one of them."""
    drawn = bytearray(random_bytes(_SIZE * _MANY))
    for place, byte in enumerate(SPAN_ID_KEY, 16):
        drawn[place::_SIZE] = bytes((byte,)) * _MANY
    ids: tuple[bytes, ...] = _split(drawn)
    id_pool.extend(ids[1:])  # other threads may take all of them at once
    return ids[0]


def new_ids(trace_bytes: bytes, generator: IdGenerator | None) -> bytes:
    """Return the ids of a new span.

    Args:
        trace_bytes: The id of its trace; empty for a new trace.
        generator: Makes the ids; None for random ones.
    """
    if generator is not None:
        trace_id = int.from_bytes(trace_bytes, "big") if trace_bytes else generator.generate_trace_id()
        return make_ids(trace_id, generator.generate_span_id())
    try:
        ids = id_pool.pop()
    except IndexError:
        ids = refill_ids()
    return trace_bytes + ids[16:] if trace_bytes else ids


def make_ids(trace_id: int, span_id: int) -> bytes:
    """Encode the ids of a span.

    Args:
        trace_id: 128 bits.
        span_id: 64 bits.
    """
    return trace_id.to_bytes(16, "big") + SPAN_ID_KEY + span_id.to_bytes(8, "big")


def ids_to_ints(ids: bytes) -> tuple[int, int]:
    """Trace id and span id as integers, the API's form."""
    return int.from_bytes(ids[:16], "big"), int.from_bytes(ids[-8:], "big")
