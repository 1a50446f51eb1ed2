"""Transport protocol, the outcome of a request, and a decoder for a collector's responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Outcome", "Transport", "fields", "partial_success"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one request.

    Attributes:
        taken: The collector accepted the request.
        rejected: Number of spans in it that the collector rejected.
        retry: The request may be sent again.
        after_s: Delay before the next request that the collector asked for, in seconds.
        kind: Kind of failure, of low cardinality: each kind is logged at most once per minute.
        detail: Full description of the failure.
    """

    taken: bool
    rejected: int = 0
    retry: bool = False
    after_s: float = 0.0
    kind: str = ""
    detail: str = ""


class Transport(Protocol):
    """Connection to a collector. One thread uses it; only `abort` and `forget` may be called from others."""

    timeout_s: float
    """Longest time of one request, in seconds."""

    where: str
    """The collector's address, for logs."""

    def pack(self, payloads: Sequence[bytes]) -> Sequence[bytes]:
        """Return the parts of one request's body. Called once for all attempts.

        Args:
            payloads: Encoded ExportTraceServiceRequests, which form one request if one follows the other.
        """

    def send(self, body: Sequence[bytes]) -> Outcome:
        """Send one request, whose body `pack` returned."""

    def abort(self) -> None:
        """End the active request at once. It does not block, and may be called from any thread."""

    def close(self) -> None:
        """Release the connection."""

    def forget(self) -> None:
        """In a forked child, drop the parent's connection without closing it."""


def partial_success(response: bytes) -> tuple[int, str]:
    """Decode an ExportTraceServiceResponse.

    Args:
        response: Body of a successful response.

    Returns:
        The number of rejected spans and the collector's message; 0 and "" if the body cannot be decoded.
    """
    try:
        inner = next((value for number, value in fields(response) if number == 1), b"")
        found = dict(fields(inner)) if isinstance(inner, bytes) else {}
    except ValueError:
        return 0, ""
    rejected, message = found.get(1, 0), found.get(2, b"")
    if not isinstance(rejected, int) or not isinstance(message, bytes) or rejected >= 1 << 63:  # a negative number
        return 0, ""
    return rejected, message.decode(errors="replace")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of an encoded protobuf message, each with its number.

    Args:
        message: The encoded message.

    Raises:
        ValueError: The bytes are not a protobuf message.
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
            raise ValueError(f"invalid protobuf field at byte {at}")
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
    raise ValueError(f"invalid protobuf varint at byte {at}")
