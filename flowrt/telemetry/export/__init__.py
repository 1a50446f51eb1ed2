"""The export of spans over OTLP: a hand-over that costs the loop next to nothing, and an account of every span."""

from __future__ import annotations

from flowrt.telemetry.export.delivery import Backoff
from flowrt.telemetry.export.over_http import HttpTransport
from flowrt.telemetry.export.pipeline import SpanPipeline
from flowrt.telemetry.export.settings import ExportSettings, loggable, read_settings
from flowrt.telemetry.export.transport import Outcome, Transport

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
        from flowrt.telemetry.export.over_grpc import GrpcTransport  # noqa: PLC0415  # an extra

        return GrpcTransport(settings)
    return HttpTransport(settings)
