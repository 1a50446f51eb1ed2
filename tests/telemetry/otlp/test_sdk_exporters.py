"""Metrics and log events over OTLP by the SDK's exporters, through a real collector."""

from __future__ import annotations

import dataclasses
import gzip
import logging
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client import REGISTRY

import flowrt
from dashboards.generator.servers import free_port
from tests.telemetry.otlp.harness import Collector, Request, status
from tests.telemetry.otlp.test_rotel import Ports, running

Start = Callable[..., Collector]
Series = tuple[str, tuple[tuple[str, str], ...]]


async def work(x: int) -> int:
    if x % 10 == 3:
        raise ConnectionError("no answer")
    return x


async def batch(name: str = "exported") -> flowrt.BatchResults[int, int]:
    return await flowrt.map(work, range(200), name=name, retry=2, cache=True)


def body_of(request: Request) -> bytes:
    return gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body


def requests_to(sink: Collector, path: str) -> list[bytes]:
    return [body_of(request) for request in sink.requests if path in request.line]


@pytest.fixture(params=["http/protobuf", "grpc"])
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The protocol that the environment chooses."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
    chosen: str = request.param
    return chosen


def exported_metrics(sink: Collector) -> dict[Series, float]:
    """The values that arrived last, under the names that a scrape gives them."""
    values: dict[Series, float] = {}
    for body in requests_to(sink, "/v1/metrics"):
        for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            names = {each.key: each.value.string_value for each in of_resource.resource.attributes}
            assert names["service.name"] == "exporting"
            for metric in (metric for scope in of_resource.scope_metrics for metric in scope.metrics):
                for point in (*metric.sum.data_points, *metric.gauge.data_points):
                    number = point.as_double if point.HasField("as_double") else point.as_int
                    values[metric.name, labels_of(point)] = number
                for point in metric.histogram.data_points:
                    labels = labels_of(point)
                    values[f"{metric.name}_count", labels] = point.count
                    values[f"{metric.name}_sum", labels] = point.sum
                    total = 0
                    bounds = [*[repr(bound) for bound in point.explicit_bounds], "+Inf"]
                    for bound, count in zip(bounds, point.bucket_counts, strict=True):
                        total += count
                        values[f"{metric.name}_bucket", tuple(sorted((*labels, ("le", bound))))] = total
    return values


def exported_exemplars(sink: Collector, batch: str) -> dict[str, set[tuple[str, str]]]:
    """Trace id and span id of the exemplars on the items' durations, by status."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for body in requests_to(sink, "/v1/metrics"):
        for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for metric in (metric for scope in of_resource.scope_metrics for metric in scope.metrics):
                for point in metric.histogram.data_points if metric.name == "flowrt_item_duration_seconds" else ():
                    labels = dict(labels_of(point))
                    if labels["batch"] == batch:
                        for each in point.exemplars:
                            assert 0 <= each.as_double <= point.sum
                            found[labels["status"]].add((each.trace_id.hex(), each.span_id.hex()))
    return found


def labels_of(point: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((each.key, each.value.string_value) for each in point.attributes))


def scraped() -> dict[Series, float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        if family.name.startswith("flowrt_")
        for sample in family.samples
    }


def exported_events(sink: Collector) -> list[dict[str, Any]]:
    events = []
    for body in requests_to(sink, "/v1/logs"):
        for of_resource in ExportLogsServiceRequest.FromString(body).resource_logs:
            for record in (record for scope in of_resource.scope_logs for record in scope.log_records):
                fields = {each.key: each.value for each in record.attributes}
                events.append({"event": record.body.string_value, "record": record, **fields})
    return events


def untaken() -> Any:
    """Answer of a sink that does not read requests as spans."""
    return dataclasses.replace(status(200), takes=False)


def test_exported_metrics_equal_those_of_a_scrape(collector: Start, protocol: str) -> None:
    sink, ports, name = collector(untaken()), Ports(), f"exported{uuid.uuid4().hex[:8]}"
    endpoint = ports.endpoint(protocol)
    with running(ports, sink):
        flowrt.run(batch(name), service_name="exporting", otlp_endpoint=endpoint, metrics_exporter="otlp")
    exported, expected = exported_metrics(sink), scraped()
    assert exported.keys() == expected.keys()
    of_batch = {series: value for series, value in expected.items() if ("batch", name) in series[1]}
    assert len(of_batch) > 80
    assert {series: exported[series] for series in of_batch} == of_batch
    pair = (("batch", name), ("node", "work"))
    assert exported["flowrt_items_total", (*pair, ("status", "failed"))] == 20
    assert exported["flowrt_cache_lookups_total", (*pair, ("result", "miss"))] == 200


def test_exported_exemplars_name_items_of_their_status(collector: Start) -> None:
    sink = collector(untaken())
    name = f"ex{uuid.uuid4().hex[:8]}"
    results = flowrt.run(
        flowrt.map(work, range(200), name=name), otlp_endpoint=sink.endpoint, metrics_exporter="otlp", log_level="ERROR"
    )
    found = exported_exemplars(sink, name)
    for kind, group in (("ok", results.succeeded), ("failed", results.failed)):
        assert found[kind]
        assert found[kind] <= {(result.trace_id, result.span_id) for result in group}


def test_exported_log_events_carry_fields_and_trace_ids(
    collector: Start, protocol: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    sink, ports = collector(untaken()), Ports()
    with running(ports, sink):
        flowrt.run(
            batch(),
            service_name="exporting",
            otlp_endpoint=ports.endpoint(protocol),
            logs_exporter="otlp",
            log_format="json",
        )
    events = exported_events(sink)
    (completed,) = [each for each in events if each["event"] == "batch.completed"]
    assert (completed["batch"].string_value, completed["failed"].int_value) == ("exported", 20)
    assert (completed["record"].severity_text, completed["record"].severity_number) == ("INFO", 9)
    failed = [each for each in events if each["event"] == "item.failed"]
    assert failed
    assert all(len(each["record"].trace_id) == 16 and len(each["record"].span_id) == 8 for each in failed)
    assert {each["error"].string_value for each in failed} == {"no answer"}
    lines = [line for line in capsys.readouterr().err.splitlines() if '"item.failed"' in line]
    assert len(lines) == len(failed)


def test_dead_collector_delays_the_end_by_no_more_than_the_flush_timeout(protocol: str) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    results = flowrt.run(
        batch(), otlp_endpoint=endpoint, metrics_exporter="otlp", logs_exporter="otlp", flush_timeout=0.5
    )
    assert len(results) == 200


@pytest.mark.parametrize("setting", ["metrics_exporter", "logs_exporter"])
def test_unknown_exporter_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be 'otlp' or None, not 'prometheus'"):
        flowrt.Runtime(**{setting: "prometheus"})


@pytest.mark.parametrize(
    ("setting", "module"), [("metrics_exporter", "metric_exporter"), ("logs_exporter", "_log_exporter")]
)
def test_missing_exporter_names_the_extra(
    setting: str, module: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, extra = ("grpc", "otlp-sdk-grpc") if protocol == "grpc" else ("http", "otlp-sdk")
    monkeypatch.setitem(sys.modules, f"opentelemetry.exporter.otlp.proto.{kind}.{module}", None)
    with pytest.raises(flowrt.MissingExtraError, match=rf"otlp-proto-{kind}': pip install 'flowrt\[{extra}\]'"):
        flowrt.run(batch(), **{setting: "otlp"})  # type: ignore[arg-type]
    monkeypatch.setenv(f"OTEL_{setting.upper()}", "otlp")  # the environment may be meant for other libraries
    assert len(flowrt.run(batch())) == 200


def test_protocol_of_one_signal_wins_over_that_of_all(collector: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = collector(untaken())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{sink.endpoint}/v1/metrics")
    flowrt.run(batch(), service_name="exporting", metrics_exporter="otlp")
    assert exported_metrics(sink)


def test_environment_chooses_the_exporters(collector: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = collector(untaken())
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{sink.endpoint}/v1/metrics")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "exporting")
    flowrt.run(batch())
    assert ("flowrt_items_total", (("batch", "exported"), ("node", "work"), ("status", "ok"))) in exported_metrics(sink)
