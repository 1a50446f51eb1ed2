"""What a way to a collector looks like, and how its answers read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Outcome", "Transport", "fields", "partial_success"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        taken: The collector has it.
        rejected: How many of its spans the collector did not want all the same.
        retry: It may be sent again.
        after_s: The collector asked to be left alone for this long, in seconds.
        kind: What went wrong, of low cardinality: each is logged once a minute at most.
        detail: What went wrong, in full.
    """

    taken: bool
    rejected: int = 0
    retry: bool = False
    after_s: float = 0.0
    kind: str = ""
    detail: str = ""


class Transport(Protocol):
    """A way to a collector, used by one thread but for `abort` and `forget`."""

    timeout_s: float
    """How long one request may take, in seconds."""

    where: str
    """The collector, as it may be logged."""

    def pack(self, payload: bytes) -> bytes:
        """Make a request's body of an encoded ExportTraceServiceRequest, once for all attempts."""

    def send(self, body: bytes) -> Outcome:
        """Make one attempt."""

    def abort(self) -> None:
        """Make a request that is under way end at once; may be called from any thread, and does not block."""

    def close(self) -> None:
        """Give everything back."""

    def forget(self) -> None:
        """In a forked child: what is open is the parent's."""


def partial_success(response: bytes) -> tuple[int, str]:
    """How many spans an ExportTraceServiceResponse says were rejected, and why; garbage says nothing.

    Args:
        response: The body of a successful answer.
    """
    try:
        inner = next((value for number, value in fields(response) if number == 1), b"")
        found = dict(fields(inner)) if isinstance(inner, bytes) else {}
    except ValueError:
        return 0, ""
    rejected, message = found.get(1, 0), found.get(2, b"")
    if not isinstance(rejected, int) or not isinstance(message, bytes) or rejected >= 1 << 63:  # negative
        return 0, ""
    return rejected, message.decode(errors="replace")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """A protobuf message's fields, each with its number.

    Args:
        message: Encoded.

    Raises:
        ValueError: It is no protobuf.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire_type == 2:
            size, at = _varint(message, at)
        else:
            size = {1: 8, 5: 4}.get(wire_type, -1)
        if size < 0 or at + size > end:
            raise ValueError(f"no protobuf at byte {at}")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError(f"no varint at byte {at}")
