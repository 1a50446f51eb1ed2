"""Console transport: prints spans to standard output instead of exporting them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from flowrt.telemetry.otlp.transport import Outcome
from flowrt.telemetry.tracing.span import ItemSpan

__all__ = ["ConsoleTransport", "as_json"]


def as_json(spans: Sequence[Any]) -> bytes:
    """Encode spans as the SDK's JSON, one after the other.

    Args:
        spans: Item spans and SDK spans, mixed.
    """
    readable = (span.readable() if isinstance(span, ItemSpan) else span for span in spans)
    return "".join(f"{span.to_json()}\n" for span in readable).encode("utf-8", "backslashreplace")


class ConsoleTransport:
    """Transport that writes to standard output."""

    timeout_s = 10.0
    where = "standard output"

    def pack(self, payloads: Sequence[bytes]) -> Sequence[bytes]:
        """Return the payloads unchanged."""
        return payloads

    def send(self, body: Sequence[bytes]) -> Outcome:
        """Write the body."""
        try:
            sys.stdout.writelines(part.decode() for part in body)
            sys.stdout.flush()
        except (OSError, ValueError) as exc:
            return Outcome(taken=False, kind="stdout", detail=str(exc))
        return Outcome(taken=True)

    def abort(self) -> None:
        """Do nothing: a write to standard output cannot be interrupted."""

    def close(self) -> None:
        """Do nothing: standard output belongs to the process."""

    def forget(self) -> None:
        """Do nothing: there is no connection."""
