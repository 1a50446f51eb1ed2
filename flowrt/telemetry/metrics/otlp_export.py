"""Metrics over OTLP by the OpenTelemetry SDK's own exporter, for processes that nothing scrapes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

from opentelemetry.sdk.metrics import Exemplar as OtlpExemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from flowrt._version import __version__
from flowrt.telemetry.metrics.exemplars import Exemplar
from flowrt.telemetry.metrics.readings import Distribution, Reading, Value
from flowrt.telemetry.metrics.snapshot import Reader
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.otlp.sdk_exporters import make_sdk_exporter

__all__ = ["MetricsExport", "as_metrics_data"]

_log: Final = logging.getLogger("flowrt.export")
_STARTED_NS: Final = time.time_ns()  # cumulative values count from the process's start, or nearly
_SCOPE: Final = InstrumentationScope("flowrt", __version__)
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_INTERVAL_S: Final = 60.0


class MetricsExport:
    """Exports the metrics of the process at intervals and once more at its end, with the values of a scrape.

    `OTEL_METRIC_EXPORT_INTERVAL` sets the interval in milliseconds; the exporter reads `OTEL_EXPORTER_OTLP_*` itself.

    Args:
        resource: The OpenTelemetry resource of the metrics.
        endpoint: The collector's base URL; None to take it from the environment.

    Raises:
        MissingExtraError: The exporter is not installed.
    """

    def __init__(self, resource: Resource, endpoint: str | None = None) -> None:
        self._resource = resource
        self._exporter: MetricExporter = make_sdk_exporter("metrics", endpoint)
        self._reader = Reader(METRICS)
        self._interval_s = _interval_s()
        self._closing = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="flowrt-metrics", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(self._interval_s):
            self._export()
        self._export()

    def _export(self) -> None:
        result, why = MetricExportResult.FAILURE, "the exporter's own log event says why"
        try:
            result = self._exporter.export(as_metrics_data(self._reader.read(), self._resource))
        except Exception as exc:
            why = f"{type(exc).__name__}: {exc}"
        if result is not MetricExportResult.SUCCESS and not self._warned:
            self._warned = True  # the values are cumulative: the next export makes up for it
            _log.warning("metrics could not be exported over OTLP: %s", why)

    def close(self, timeout_s: float) -> None:
        """Export once more and end; later calls do nothing.

        Args:
            timeout_s: Longest wait for the collector, in seconds.
        """
        self._closing.set()
        self._thread.join(timeout_s)
        self._exporter.shutdown()  # ends the waits between its attempts, too


def _interval_s() -> float:
    text = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip()
    if text and not (text.isdecimal() and int(text)):
        _log.warning("OTEL_METRIC_EXPORT_INTERVAL=%r is not a positive integer: using the default", text)
        return _INTERVAL_S
    return int(text) / 1_000 if text else _INTERVAL_S


def as_metrics_data(readings: Iterable[Reading], resource: Resource) -> MetricsData:
    """Convert readings of the store into the SDK's form, with the names, labels and values of a scrape.

    Args:
        readings: The return value of `Reader.read`.
        resource: The OpenTelemetry resource of the metrics.
    """
    now_ns = time.time_ns()
    metrics = [_as_metric(reading, now_ns) for reading in readings]
    scope = ScopeMetrics(_SCOPE, metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _as_metric(reading: Reading, now_ns: int) -> Metric:
    metric = reading.metric
    points = [_as_point(dict(zip(metric.labels, labels, strict=True)), value, now_ns) for labels, value in reading.rows]
    data: Any
    if metric.kind == "histogram":
        data = Histogram(points, _CUMULATIVE)
    elif metric.kind == "counter":
        data = Sum(points, _CUMULATIVE, is_monotonic=True)
    else:
        data = Gauge(points)
    return Metric(metric.name, metric.help, "s" if "_seconds" in metric.name else "", data)


def _as_point(labels: dict[str, Any], value: Value, now_ns: int) -> Any:
    if not isinstance(value, Distribution):
        return NumberDataPoint(labels, _STARTED_NS, now_ns, value)
    counts = [after - before for before, after in zip((0, *value.counts), value.counts, strict=False)]
    return HistogramDataPoint(
        labels,
        _STARTED_NS,
        now_ns,
        count=value.counts[-1],
        sum=value.sum_s,
        bucket_counts=counts,
        explicit_bounds=[bound / 1e9 for bound in value.bounds_ns],
        min=None,  # type: ignore[arg-type]  # unknown, and optional in OTLP
        max=None,  # type: ignore[arg-type]
        exemplars=[_as_exemplar(exemplar) for exemplar in value.exemplars if exemplar is not None],
    )


def _as_exemplar(exemplar: Exemplar) -> OtlpExemplar:
    trace_id, span_id = int(exemplar.trace_id, 16), int(exemplar.span_id, 16)
    return OtlpExemplar({}, exemplar.value_s, round(exemplar.at_s * 1e9), span_id, trace_id)
