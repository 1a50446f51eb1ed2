"""The ids of item spans, as OTLP writes them: 16 bytes of the trace's, the key of the span's, 8 bytes of the span's.

They are drawn by the hundred and kept in this form: as numbers they are seldom asked for.
"""

from __future__ import annotations

import os
import struct
from random import getrandbits
from typing import Final

__all__ = ["SPAN_ID_KEY", "draw", "make_ids", "numbers_of", "stock"]

SPAN_ID_KEY: Final = b"\x12\x08"  # field 2, of 8 bytes
_SIZE: Final = 16 + len(SPAN_ID_KEY) + 8
_MANY: Final = 256

stock: Final[list[bytes]] = []
"""Random ids that nobody has yet: `pop` one, and `draw` where there is none."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=stock.clear)  # the parent has the same


def draw() -> bytes:
    """Fill the stock, by the generator that the SDK takes its ids from, and give one of it."""
    drawn = bytearray(getrandbits(8 * _SIZE * _MANY).to_bytes(_SIZE * _MANY, "big"))
    for place, byte in enumerate(SPAN_ID_KEY, 16):
        drawn[place::_SIZE] = bytes((byte,)) * _MANY
    stock.extend([ids for (ids,) in struct.iter_unpack(f"{_SIZE}s", drawn)])
    return stock.pop()


def make_ids(trace_id: int, span_id: int) -> bytes:
    """The ids of a span.

    Args:
        trace_id: 128 bits.
        span_id: 64 bits.
    """
    return trace_id.to_bytes(16, "big") + SPAN_ID_KEY + span_id.to_bytes(8, "big")


def numbers_of(ids: bytes) -> tuple[int, int]:
    """The trace's id and the span's, as the API has them."""
    return int.from_bytes(ids[:16], "big"), int.from_bytes(ids[-8:], "big")
