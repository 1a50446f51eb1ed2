"""Splits spans into requests: isolates spans that cannot be encoded, and bounds the size of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flowrt.telemetry.otlp.sender import warn_rate_limited

__all__ = ["encoded"]


def encoded(
    encode: Callable[[Sequence[Any]], bytes],
    spans: Sequence[Any],
    request_bytes: int,
    on_unencodable: Callable[[int], None],
) -> Iterator[tuple[bytes, int]]:
    """Yield encoded requests, each with its number of spans.

    Args:
        encode: Encodes spans as an ExportTraceServiceRequest.
        spans: The spans to encode. They are halved if encoding fails or the request is too large.
        request_bytes: Size limit of a request, in bytes. A request of one span may be larger.
        on_unencodable: Called with the number of spans that cannot be encoded.
    """
    try:
        payload = encode(spans)
    except Exception as exc:
        if len(spans) == 1:
            warn_rate_limited(("encode", type(exc)), "dropped a span that cannot be encoded: %r", exc)
            on_unencodable(1)
            return
    else:
        if len(spans) == 1 or len(payload) <= request_bytes:
            yield payload, len(spans)
            return
        del payload
    half = len(spans) // 2
    yield from encoded(encode, spans[:half], request_bytes, on_unencodable)
    yield from encoded(encode, spans[half:], request_bytes, on_unencodable)
