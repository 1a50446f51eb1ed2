"""Exported telemetry of `flowrt run`: service names, lost spans, unusable settings."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Flowrt = Callable[..., "subprocess.CompletedProcess[str]"]


class Collector:
    """Collector that keeps the service names of the spans it receives.

    Attributes:
        names: Service names in the order of the requests.
        status: HTTP status of its answers.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.status = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.names += [
                        attribute.value.string_value
                        for attribute in spans.resource.attributes
                        if attribute.key == "service.name"
                    ]
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:  # type: ignore[override]
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Run a collector."""
    running = Collector()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def closed_url() -> str:
    """Return the URL of a port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _input(folder: Path) -> None:
    (folder / "in.jsonl").write_text("1\n2\n")


RUN = ("run", "nodes:echo", "in.jsonl", "-o", "out", "--overwrite")


@pytest.mark.parametrize(
    ("variables", "words", "name"),
    [
        ({"OTEL_SERVICE_NAME": "nightly"}, (), "nightly"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team=a, service.name=nightly"}, (), "nightly"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team=a"}, (), "flowrt"),
        ({}, (), "flowrt"),
        ({"OTEL_SERVICE_NAME": "nightly"}, ("--service-name", "hourly"), "hourly"),
    ],
)
def test_service_name_is_that_of_the_option_or_the_environment(
    flowrt: Flowrt,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    words: tuple[str, ...],
    name: str,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    done = flowrt(*RUN, "--otlp-endpoint", collector.url, "--strict-telemetry", *words)
    assert done.returncode == 0, done.stderr
    assert set(collector.names) == {name}
    assert "3 of 3 delivered" in done.stderr


def test_bench_reports_an_unusable_setting_in_one_line(flowrt: Flowrt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    words = ("--concurrency", "1", "--step", "0.2", "--passes", "1", "--quiet")
    done = flowrt("bench", "nodes:echo", "in.jsonl", *words)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "OTEL_TRACES_EXPORTER=zipkin is not supported" in done.stderr


def test_dead_collector_is_reported_in_a_line_and_in_the_summary(flowrt: Flowrt, closed_url: str) -> None:
    done = flowrt(*RUN, "--otlp-endpoint", closed_url)
    assert done.returncode == 0
    warnings = [line for line in done.stderr.splitlines() if line.startswith("flowrt: ")]
    assert len(warnings) == 1
    assert closed_url in warnings[0]
    assert "refused" in warnings[0]
    (row,) = [line for line in done.stderr.splitlines() if line.startswith("spans ")]
    assert "0 of 3 delivered: ConnectionRefusedError" in row


def test_strict_telemetry_exits_6_for_lost_spans_but_1_for_failed_items(flowrt: Flowrt, closed_url: str) -> None:
    words = ("--otlp-endpoint", closed_url, "--strict-telemetry", "--quiet")
    assert flowrt(*RUN, *words).returncode == 6
    assert flowrt("run", "nodes:odd_fails", *RUN[2:], *words).returncode == 1


def test_refusing_collector_is_reported(flowrt: Flowrt, collector: Collector) -> None:
    collector.status = 403
    done = flowrt(*RUN, "--otlp-endpoint", collector.url, "--strict-telemetry", "--quiet")
    assert done.returncode == 6
    assert "403" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER=zipkin is not supported"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier/pigeon", "OTEL_EXPORTER_OTLP_PROTOCOL=carrier/pigeon"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "no-equals", "OTEL_EXPORTER_OTLP_HEADERS"),
    ],
)
def test_unusable_setting_is_one_line_and_exits_6_if_strict(
    flowrt: Flowrt, collector: Collector, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    done = flowrt(*RUN, "--quiet")
    assert done.returncode == 0
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert flowrt(*RUN, "--quiet", "--strict-telemetry").returncode == 6


def test_json_log_has_the_warnings_as_events_only(flowrt: Flowrt, closed_url: str) -> None:
    done = flowrt(*RUN, "--otlp-endpoint", closed_url, "--log-format", "json")
    assert all(line.startswith("{") for line in done.stderr.splitlines()), done.stderr
    assert "refused" in done.stderr
