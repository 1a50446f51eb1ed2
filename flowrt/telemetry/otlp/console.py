"""Spans on standard output, for a look at what would be exported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from flowrt.telemetry.otlp.transport import Outcome
from flowrt.telemetry.tracing.span import ItemSpan

__all__ = ["ConsoleTransport", "as_json"]


def as_json(spans: Sequence[Any]) -> bytes:
    """Spans as the SDK's own JSON, one after the other.

    Args:
        spans: Item spans and the SDK's own, mixed.
    """
    readable = (span.readable() if isinstance(span, ItemSpan) else span for span in spans)
    return "".join(f"{span.to_json()}\n" for span in readable).encode("utf-8", "backslashreplace")


class ConsoleTransport:
    """Writes to standard output."""

    timeout_s = 10.0
    where = "standard output"

    def pack(self, payload: bytes) -> bytes:
        """As it is."""
        return payload

    def send(self, body: bytes) -> Outcome:
        """Write it."""
        try:
            sys.stdout.write(body.decode())
            sys.stdout.flush()
        except (OSError, ValueError) as exc:
            return Outcome(taken=False, kind="stdout", detail=str(exc))
        return Outcome(taken=True)

    def abort(self) -> None:
        """A write cannot be cut short."""

    def close(self) -> None:
        """Standard output is not ours."""

    def forget(self) -> None:
        """There is nothing to forget."""
