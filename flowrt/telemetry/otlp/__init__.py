"""The export of spans over OTLP: a hand-over that costs the loop next to nothing, and an account of every span."""

from __future__ import annotations

from flowrt.telemetry.otlp.config import ExportSettings, loggable, read_settings
from flowrt.telemetry.otlp.http import HttpTransport
from flowrt.telemetry.otlp.pipeline import SpanPipeline
from flowrt.telemetry.otlp.sender import Backoff
from flowrt.telemetry.otlp.transport import Outcome, Transport

__all__ = [
    "Backoff",
    "ExportSettings",
    "Outcome",
    "SpanPipeline",
    "Transport",
    "loggable",
    "make_transport",
    "read_settings",
]


def make_transport(settings: ExportSettings) -> Transport:
    """The way to the collector that the settings describe.

    Args:
        settings: Where to and how.

    Raises:
        MissingExtraError: It is gRPC, and grpcio is not installed.
        ValueError: A certificate cannot be read.
    """
    if settings.protocol == "grpc":
        from flowrt.telemetry.otlp.grpc import GrpcTransport  # noqa: PLC0415  # an extra

        return GrpcTransport(settings)
    return HttpTransport(settings)
