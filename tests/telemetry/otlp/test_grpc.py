"""Export over gRPC to a grpcio server."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from flowrt.errors import MissingExtraError
from flowrt.telemetry.otlp import SpanPipeline, make_transport, read_settings
from tests.telemetry.otlp.harness import (
    HANG_GUARD_S,
    PATIENT,
    QUICK,
    assert_threads_end,
    eventually,
    names_in,
    numbered,
    pipelines,
    put_all,
    put_together,
)

ROOT = Path(__file__).parent.parent.parent.parent

Answer = Callable[["Collector", grpc.ServicerContext], bytes]


def ok(there: Collector, context: grpc.ServicerContext) -> bytes:
    return ExportTraceServiceResponse().SerializeToString()


def fails(code: str, details: str = "", *infos: Any) -> Answer:
    def answer(there: Collector, context: grpc.ServicerContext) -> bytes:
        packed = []
        for info in infos:
            packed.append(AnyMessage())
            packed[-1].Pack(info)
        if packed:
            status = Status(code=8, message=details, details=packed)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode[code], details)

    return answer


def hangs(there: Collector, context: grpc.ServicerContext) -> bytes:
    there.over.wait()
    return b""


class Collector:
    """gRPC server with a script: one answer per request, the last one repeated."""

    def __init__(self, *script: Answer, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.script = list(script or (ok,))
        self.over = threading.Event()
        self.attempts: list[float] = []
        self.taken: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(self._export)
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self.endpoint = f"{'http' if credentials is None else 'https'}://127.0.0.1:{self.port}"
        self._server.start()

    def _export(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.attempts.append(time.monotonic())
            self.metadata.append(dict(context.invocation_metadata()))
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        response = answer(self, context)
        with self._lock:
            self.taken += names_in(request)
        return response

    def close(self) -> None:
        self.over.set()
        self._server.stop(0).wait(HANG_GUARD_S)
        self._pool.shutdown()


Start = Callable[..., Collector]
Export = Callable[..., SpanPipeline]


@pytest.fixture
def collector() -> Iterator[Start]:
    started: list[Collector] = []

    def start(*script: Answer, **settings: Any) -> Collector:
        started.append(Collector(*script, **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def export() -> Iterator[Export]:
    """Makes gRPC pipelines, closed and checked after the test."""
    with pipelines({"protocol": "grpc", "backoff": PATIENT}) as start:
        yield start


# -- working collector -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_spans_and_headers_arrive(collector: Start, export: Export, compression: str) -> None:
    there = collector()
    pipeline = export(there.endpoint, compression=compression, headers={"API-Key": "secret"})
    put_all(pipeline, numbered(3_000))
    assert pipeline.force_flush()
    assert there.taken == numbered(3_000)
    assert pipeline.exported == 3_000
    metadata = there.metadata[0]
    assert metadata["api-key"] == "secret"
    assert metadata["user-agent"].startswith("flowrt/")


def test_insecure_endpoint_without_scheme_uses_no_tls(
    collector: Start, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_INSECURE", "true")
    pipeline = export(f"127.0.0.1:{there.port}")
    put_all(pipeline, ["s"])
    assert pipeline.force_flush()
    assert there.taken == ["s"]


# -- failing collector -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"]
)
def test_transient_fault_loses_nothing(collector: Start, export: Export, code: str) -> None:
    there = collector(fails(code), fails(code), ok)
    pipeline = export(there.endpoint)
    put_together(pipeline, numbered(10))
    eventually(lambda: pipeline.exported == 10)
    assert there.taken == numbered(10)
    assert len(there.attempts) == 3


def test_permanent_fault_counts_every_dropped_span(collector: Start, export: Export) -> None:
    pipeline = export(collector(fails("UNAVAILABLE")).endpoint, backoff=QUICK)
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline.dropped["export_error"] == 10)
    assert pipeline.exported == 0


def test_absent_collector_counts_every_dropped_span(export: Export) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    pipeline = export(f"http://127.0.0.1:{port}", backoff=QUICK)
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline.dropped["export_error"] == 10)
    assert pipeline.exported == 0


@pytest.mark.parametrize(
    "code", ["INVALID_ARGUMENT", "UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED", "INTERNAL", "UNKNOWN"]
)
def test_permanent_status_is_not_retried(
    collector: Start, export: Export, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    there = collector(fails(code, "no\nsuch thing"))
    pipeline = export(there.endpoint)
    for count in (10, 20):
        put_together(pipeline, numbered(10))
        eventually(lambda count=count: pipeline.dropped["export_error"] == count)
    assert len(there.attempts) == 2
    (record,) = (record for record in caplog.records if record.name == "flowrt.export")
    assert record.levelno == logging.WARNING
    assert f"{there.endpoint}: {code} no; such thing; dropped 10 spans" in record.getMessage()


def test_resource_exhausted_is_retried_only_with_a_retry_delay(collector: Start, export: Export) -> None:
    there = collector(fails("RESOURCE_EXHAUSTED", "too large", ErrorInfo(reason="size")), ok)
    pipeline = export(there.endpoint)
    put_all(pipeline, ["lost"])
    eventually(lambda: pipeline.dropped["export_error"] == 1)

    info = RetryInfo()
    info.retry_delay.FromMilliseconds(1_100)
    there = collector(fails("RESOURCE_EXHAUSTED", "too many", ErrorInfo(reason="rate"), info), ok)
    pipeline = export(there.endpoint)
    put_all(pipeline, ["kept"])
    eventually(lambda: pipeline.exported == 1)
    assert there.attempts[1] - there.attempts[0] >= 1.05


def test_rejected_spans_are_counted_as_dropped(collector: Start, export: Export) -> None:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 3
    there = collector(lambda there, context: response.SerializeToString())
    pipeline = export(there.endpoint)
    put_together(pipeline, numbered(10))
    assert pipeline.force_flush()
    assert (pipeline.exported, pipeline.dropped["export_error"]) == (7, 3)


def test_hanging_collector_does_not_delay_close(collector: Start, export: Export) -> None:
    pipeline = export(collector(hangs).endpoint, timeout_s=3_600)
    put_all(pipeline, numbered(10))
    began = time.monotonic()
    pipeline.close(0.3)
    assert time.monotonic() - began < HANG_GUARD_S / 2
    assert (pipeline.exported, pipeline.dropped["shutdown"]) == (0, 10)
    assert_threads_end(pipeline)


def test_hanging_collector_is_aborted_after_the_timeout(collector: Start, export: Export) -> None:
    there = collector(hangs, ok)
    pipeline = export(there.endpoint, timeout_s=0.2)
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline.exported == 10)
    assert len(there.attempts) >= 2  # on a busy machine, an answer may take longer than the timeout
    assert sum(pipeline.dropped.values()) == 0


def test_server_without_grpc_does_not_delay_close(export: Export) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections and never answers
        pipeline = export(f"http://127.0.0.1:{server.getsockname()[1]}")
        put_all(pipeline, numbered(10))
        began = time.monotonic()
        pipeline.close(0.3)
        assert time.monotonic() - began < HANG_GUARD_S / 2
        assert pipeline.dropped["shutdown"] == 10


def test_collector_restart_loses_nothing(collector: Start, export: Export) -> None:
    there = collector()
    pipeline = export(there.endpoint)
    put_all(pipeline, numbered(100))
    assert pipeline.force_flush()
    there.close()
    put_all(pipeline, [f"t{number}" for number in range(100)])
    assert not pipeline.force_flush(200)
    again = collector(port=there.port)
    assert pipeline.force_flush()
    assert there.taken == numbered(100)
    assert again.taken == [f"t{number}" for number in range(100)]
    assert pipeline.exported == 200


# -- requirements ------------------------------------------------------------------------------------------------------


def test_missing_grpcio_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "flowrt.telemetry.otlp.grpc", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'grpcio': pip install 'flowrt\[grpc\]'"):
        make_transport(read_settings("http://127.0.0.1:4317", protocol="grpc"))


FORK = """
    import logging, os
    {first}
    logging.basicConfig()
    from flowrt.telemetry.otlp import SpanPipeline, make_transport, read_settings
    from tests.telemetry.otlp.harness import encode, spans_named
    pipeline = SpanPipeline(make_transport(read_settings({endpoint!r}, protocol="grpc")), encode)
    def export(name):
        pipeline.put(spans_named([name])[0])
        assert pipeline.force_flush(10_000)
    export("before")
    if (child := os.fork()) == 0:
        export("child")
        pipeline.close(10)
        assert (pipeline.exported, pipeline.dropped["export_error"]) == {child}
        os._exit(0)
    export("beside")
    assert os.waitpid(child, 0)[1] == 0
    export("after")
    pipeline.close(10)
    assert pipeline.exported == 3
    """


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("prepared", [True, False])
def test_forked_child_exports_its_spans_or_says_why_not(collector: Start, prepared: bool) -> None:
    there = collector()
    child = (1, 0) if prepared else (0, 1)
    first = "" if prepared else "import grpc"
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            textwrap.dedent(FORK.format(first=first, endpoint=there.endpoint, child=child)),
        ],
        env={**environment, "PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "NONE"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(there.taken) == sorted(["before", "beside", "after", *(["child"] if prepared else [])])
    assert ("set GRPC_ENABLE_FORK_SUPPORT=1 before grpc is imported" in done.stderr) is not prepared
