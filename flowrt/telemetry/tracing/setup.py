"""Installs a tracer provider in a process that has none. It leaves an existing provider alone."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from flowrt.errors import MissingExtraError
from flowrt.telemetry.logs.events import log_event
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.otlp import SpanPipeline, loggable, make_transport, read_settings
from flowrt.telemetry.otlp.console import ConsoleTransport, as_json
from flowrt.telemetry.tracing.native_instrument import NativeTracingInstrument
from flowrt.telemetry.tracing.otlp_encoding import encode_spans
from flowrt.telemetry.tracing.provider import RuntimeProvider

__all__ = ["TraceSetup", "export_settings", "make_provider", "resource_of"]

_log = logging.getLogger("flowrt.setup")


class TraceSetup:
    """Tracing of a process: installs a provider if there is none, and exports spans if an endpoint is named.

    It reads the standard variables (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`,
    `OTEL_TRACES_EXPORTER`, `OTEL_EXPORTER_OTLP_*`, `OTEL_BSP_*`, `OTEL_SDK_DISABLED`). Arguments win over them.

    Args:
        service_name: The resource's `service.name`.
        otlp_endpoint: The collector's base URL; `/v1/traces` is appended.

    Attributes:
        pipeline: The pipeline that exports finished spans, or None if none are exported.

    Raises:
        MissingExtraError: There is an endpoint, but the exporter for it is not installed.
        ValueError: The endpoint is not an http or https URL.
    """

    def __init__(self, service_name: str | None = None, otlp_endpoint: str | None = None) -> None:
        self.pipeline: SpanPipeline | None = None
        if _env("OTEL_SDK_DISABLED").lower() == "true":
            return
        with _sharing:
            self.pipeline = _running() or self._set_up(service_name, otlp_endpoint)
            if self.pipeline is not None:
                _users[self.pipeline] = _users.get(self.pipeline, 0) + 1

    def _set_up(self, service_name: str | None, otlp_endpoint: str | None) -> SpanPipeline | None:
        if not _ours and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            if otlp_endpoint is not None:
                _log.warning(
                    "otlp_endpoint=%r is ignored: this process has a tracer provider already; add an exporter to that "
                    "provider, or set none, so that flowrt installs its own",
                    loggable(otlp_endpoint),
                )
            return None
        resource = resource_of(service_name)
        pipeline = _make_pipeline(otlp_endpoint, resource)
        provider = _install(resource)
        if pipeline is not None:
            provider.target = METRICS.pipeline = pipeline
            _endpoints.clear()
            _endpoints[pipeline] = otlp_endpoint
        return pipeline

    def close(self, timeout_s: float) -> None:
        """Export the waiting spans. The last user of the pipeline closes it. Later calls do nothing.

        Args:
            timeout_s: Longest wait for the collector, in seconds.
        """
        pipeline = self.pipeline
        if pipeline is None:
            return
        with _sharing:
            others = _users.pop(pipeline, 0) - 1
            if others > 0:
                _users[pipeline] = others
                self.pipeline = None  # the last user reports the counts
        if others > 0:
            pipeline.force_flush(round(timeout_s * 1_000))
        elif others == 0:
            pipeline.close(timeout_s)
            if _ours and _ours[0].target is pipeline:
                _ours[0].target = METRICS.pipeline = None

    def report(self) -> None:
        """Log the dropped spans and any mismatch between the pipeline's counts."""
        pipeline = self.pipeline
        if pipeline is None:
            return
        ended, exported, dropped = pipeline.ended, pipeline.exported, pipeline.dropped
        lost = {reason: count for reason, count in dropped.items() if count}
        if lost:
            log_event("warning", "telemetry.dropped", signal="spans", exported=exported, **lost)
        unaccounted = ended - exported - sum(dropped.values()) - pipeline.waiting
        if unaccounted:
            log_event(
                "error", "telemetry.mismatch", signal="spans", ended=ended, exported=exported, unaccounted=unaccounted
            )


_ours: Final[list[RuntimeProvider]] = []  # the provider that flowrt installed, if any
_users: Final[dict[SpanPipeline, int]] = {}  # number of runtimes that export through a pipeline
_sharing: Final = threading.Lock()
_endpoints: Final[dict[SpanPipeline, str | None]] = {}  # of the pipelines in `_users`


def export_settings() -> dict[str, Any]:
    """Export settings for another process: service name and endpoint; empty if this process exports nothing."""
    pipeline = _running()
    if pipeline is None:
        return {}
    name = _ours[0].resource.attributes.get("service.name")
    return {"service_name": name, "otlp_endpoint": _endpoints.get(pipeline)}


def _running() -> SpanPipeline | None:
    """The pipeline of another Runtime in this process, or None."""
    users = list(_users)  # one step: on another thread, a Runtime may end meanwhile
    return next((each for each in users if _ours and each is _ours[0].target), None)


def resource_of(service_name: str | None) -> Resource:
    """The resource of the installed provider, or a new one.

    Args:
        service_name: The resource's `service.name`.
    """
    if not _ours:
        return Resource.create({} if service_name is None else {"service.name": service_name})
    resource = _ours[0].resource
    running = resource.attributes.get("service.name")
    if service_name is not None and service_name != running:
        _log.warning("service_name=%r is ignored: this process already traces as %r", service_name, running)
    return resource


def make_provider(resource: Resource) -> RuntimeProvider:
    """Make a provider whose item spans flowrt makes itself.

    Args:
        resource: The provider's resource.
    """
    return RuntimeProvider(resource, NativeTracingInstrument)


def _install(resource: Resource) -> RuntimeProvider:
    if _ours:
        return _ours[0]
    provider = make_provider(resource)
    trace.set_tracer_provider(provider)
    _ours.append(provider)
    return provider


def _make_pipeline(otlp_endpoint: str | None, resource: Resource) -> SpanPipeline | None:
    """Return the exporter that the argument or the environment selects."""
    wanted = _env("OTEL_TRACES_EXPORTER").lower()
    if otlp_endpoint is None:
        if wanted == "console":
            return SpanPipeline(ConsoleTransport(), as_json, **_pipeline_settings())
        named = _env("OTEL_EXPORTER_OTLP_ENDPOINT") or _env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        if wanted == "none" or not (named or wanted == "otlp"):
            return None
        if wanted not in ("", "otlp"):
            _log.warning(
                "OTEL_TRACES_EXPORTER=%s is not supported: no spans are exported; use otlp, console or none", wanted
            )
            return None
    elif not isinstance(otlp_endpoint, str) or ("://" not in otlp_endpoint and not _over_grpc()):
        raise ValueError(
            f"otlp_endpoint must be the collector's http or https URL, for instance http://127.0.0.1:4318, "
            f"not {loggable(otlp_endpoint)!r}"
        )
    settings = read_settings(otlp_endpoint)
    if not _is_installed("opentelemetry.exporter.otlp.proto.common.trace_encoder"):
        raise MissingExtraError("export over OTLP", "opentelemetry-exporter-otlp-proto-common", "otlp")

    def encode_others(spans: Sequence[ReadableSpan]) -> bytes:
        # imported for the first span that is not flowrt's own, as it loads all of protobuf
        from opentelemetry.exporter.otlp.proto.common import trace_encoder  # noqa: PLC0415

        request: bytes = trace_encoder.encode_spans(spans).SerializeToString()
        return request

    def encode(spans: Sequence[Any]) -> bytes:
        return encode_spans(spans, encode_others, resource)

    return SpanPipeline(make_transport(settings), encode, takes_plain=True, **_pipeline_settings())


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # a parent package is missing
        return False


def _over_grpc() -> bool:
    return (_env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or _env("OTEL_EXPORTER_OTLP_PROTOCOL")) == "grpc"


def _pipeline_settings() -> Mapping[str, Any]:
    settings: dict[str, Any] = {}
    for variable, setting, unit in (
        ("OTEL_BSP_MAX_QUEUE_SIZE", "most_spans", 1),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "batch_spans", 1),
        ("OTEL_BSP_SCHEDULE_DELAY", "delay_s", 1_000),
    ):
        text = _env(variable)
        if text.isdecimal() and int(text) > 0:
            settings[setting] = int(text) if unit == 1 else int(text) / unit
        elif text:
            _log.warning("%s=%r is not a positive integer: using the default", variable, text)
    return settings


def _env(name: str) -> str:
    return os.environ.get(name, "").strip()
