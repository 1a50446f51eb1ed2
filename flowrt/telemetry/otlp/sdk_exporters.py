"""The OpenTelemetry SDK's own OTLP exporters of metrics and log events, over HTTP or gRPC."""

from __future__ import annotations

import importlib
from typing import Any, Final, Literal

from flowrt.errors import MissingExtraError
from flowrt.telemetry.otlp.config import wire_protocol

__all__ = ["make_sdk_exporter"]

_CLASSES: Final = {
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
}


def make_sdk_exporter(signal: Literal["metrics", "logs"], endpoint: str | None) -> Any:
    """Make the exporter of a signal, which reads its `OTEL_EXPORTER_OTLP_*` variables itself.

    Args:
        signal: Signal to export.
        endpoint: The collector's base URL, to which `/v1/metrics` or `/v1/logs` is appended over HTTP; None for that of
            the environment.

    Raises:
        MissingExtraError: The exporter is not installed.
    """
    over_grpc = wire_protocol(signal) == "grpc"
    kind, extra = ("grpc", "otlp-sdk-grpc") if over_grpc else ("http", "otlp-sdk")
    module, name = _CLASSES[signal]
    try:
        if over_grpc:
            importlib.import_module("flowrt.telemetry.otlp.grpc")  # sets what grpc reads at its first import
        exporter = getattr(importlib.import_module(f"opentelemetry.exporter.otlp.proto.{kind}.{module}"), name)
    except ImportError:
        feature = f"{signal}_exporter='otlp'{' over gRPC' if over_grpc else ''}"
        raise MissingExtraError(feature, f"opentelemetry-exporter-otlp-proto-{kind}", extra) from None
    return exporter(endpoint if endpoint is None or over_grpc else f"{endpoint.rstrip('/')}/v1/{signal}")
