"""Encodes spans so that one that cannot be encoded takes no other with it, and no request becomes too large."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flowrt.telemetry.otlp.sender import complain

__all__ = ["encoded"]


def encoded(
    encode: Callable[[Sequence[Any]], bytes], spans: Sequence[Any], request_bytes: int, lose: Callable[[int], None]
) -> Iterator[tuple[bytes, int]]:
    """Encoded requests, each with how many spans it has.

    Args:
        encode: Makes an ExportTraceServiceRequest of some spans.
        spans: What to encode; halved where that fails or the request is too large.
        request_bytes: How large a request may be, in bytes, unless it is one span.
        lose: Told how many spans cannot be encoded.
    """
    try:
        payload = encode(spans)
    except Exception as exc:
        if len(spans) == 1:
            complain(("encode", type(exc)), "a span cannot be encoded and is lost: %r", exc)
            lose(1)
            return
    else:
        if len(spans) == 1 or len(payload) <= request_bytes:
            yield payload, len(spans)
            return
        del payload
    half = len(spans) // 2
    yield from encoded(encode, spans[:half], request_bytes, lose)
    yield from encoded(encode, spans[half:], request_bytes, lose)
