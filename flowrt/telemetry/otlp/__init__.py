"""Export of spans over OTLP: the pipeline from finished spans to a collector, its transports and its settings."""

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
    """Make the transport for the settings' protocol.

    Args:
        settings: Endpoint, protocol and credentials.

    Raises:
        MissingExtraError: The protocol is gRPC, and grpcio is not installed.
        ValueError: A certificate cannot be read.
    """
    if settings.protocol == "grpc":
        from flowrt.telemetry.otlp.grpc import GrpcTransport  # noqa: PLC0415  # an extra

        return GrpcTransport(settings)
    return HttpTransport(settings)
