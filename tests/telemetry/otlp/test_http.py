"""Export over HTTP to collectors with all kinds of faults; every span is accounted for."""

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
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from flowrt.telemetry.otlp import Backoff, SpanPipeline, make_transport, read_settings
from flowrt.telemetry.otlp.config import Compression
from tests.telemetry.otlp.harness import (
    HANG_GUARD_S,
    PATIENT,
    QUICK,
    Answer,
    Collector,
    assert_threads_end,
    encode,
    eventually,
    hang,
    held,
    numbered,
    partial,
    pipelines,
    put_all,
    put_together,
    raw,
    spans_named,
    status,
    trickle,
)

ROOT = Path(__file__).parent.parent.parent.parent

Export = Callable[..., SpanPipeline]
Start = Callable[..., Collector]


@pytest.fixture
def export() -> Iterator[Export]:
    """Makes HTTP pipelines, closed and checked after the test."""
    with pipelines({"backoff": QUICK}) as start:
        yield start


def refused() -> str:
    """Endpoint on a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


# -- working collector -------------------------------------------------------------------------------------------------


def test_spans_share_one_keep_alive_connection(collector: Start, export: Export) -> None:
    there = collector()
    pipeline = export(there.endpoint)
    for number in range(5):
        put_all(pipeline, [f"s{number}"])
        assert pipeline.force_flush()
    assert there.taken == numbered(5)
    assert pipeline.exported == 5
    assert {request.connection for request in there.requests} == {1}
    request = there.requests[0]
    assert request.line == "POST /v1/traces HTTP/1.1"
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["user-agent"].startswith("flowrt/")
    assert "content-encoding" not in request.headers


def test_requests_are_compressed_on_request(collector: Start, export: Export) -> None:
    there = collector()
    pipeline = export(there.endpoint, compression="gzip")
    put_all(pipeline, numbered(100))
    assert pipeline.force_flush()
    assert there.taken == numbered(100)
    assert {request.headers["content-encoding"] for request in there.requests} == {"gzip"}


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_several_payloads_are_one_request_at_each_attempt(collector: Start, compression: Compression) -> None:
    there = collector(status(503), status(200))
    transport = make_transport(read_settings(there.endpoint, compression=compression))
    body = transport.pack([encode(spans_named(["a", "b"])), encode(spans_named(["c"]))])
    assert [transport.send(body).taken, transport.send(body).taken] == [False, True]
    transport.close()
    assert [request.names for request in there.requests] == [["a", "b", "c"], ["a", "b", "c"]]
    assert not any("transfer-encoding" in request.headers for request in there.requests)


def test_headers_path_and_query_are_sent_unchanged(
    collector: Start, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=se%20cret,x-tenant=a=b")
    pipeline = export(f"{there.endpoint}/base?x=1", headers={"X-Mine": "1", "Content-Type": "text/plain"})
    put_all(pipeline, ["s"])
    assert pipeline.force_flush()
    (request,) = there.requests
    assert request.line == "POST /base/v1/traces?x=1 HTTP/1.1"
    assert {name: request.headers[name] for name in ("api-key", "x-tenant", "x-mine")} == {
        "api-key": "se cret",
        "x-tenant": "a=b",
        "x-mine": "1",
    }
    assert request.headers["content-type"] == "application/x-protobuf"


def test_proxy_from_the_environment_is_used(collector: Start, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = collector()
    monkeypatch.setenv("http_proxy", f"http://me:pass@127.0.0.1:{proxy.port}")
    pipeline = export("http://collector.invalid:4318")
    put_all(pipeline, ["s"])
    assert pipeline.force_flush()
    assert proxy.taken == ["s"]
    assert proxy.requests[0].line == "POST http://collector.invalid:4318/v1/traces HTTP/1.1"
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic bWU6cGFzcw=="
    assert proxy.requests[0].headers["host"] == "collector.invalid:4318"


def test_slow_collector_gets_all_spans_in_few_requests(collector: Start, export: Export) -> None:
    answers = threading.Event()
    there = collector(held(answers, status(200)), status(200))
    pipeline = export(there.endpoint)
    put_all(pipeline, numbered(20_000))
    eventually(lambda: not pipeline._waiting)  # encoded, but for a few
    answers.set()
    pipeline.close(HANG_GUARD_S)
    assert there.taken == numbered(20_000)
    assert pipeline.exported == 20_000
    assert len(there.requests) <= 3


# -- failing collector -------------------------------------------------------------------------------------------------

JUNK = b"\x00\xff garbage that is no HTTP\r\n\r\n"
FAULTS: dict[str, Answer] = {
    "429": status(429),
    "502": status(502),
    "503 with a body": status(503, b"overloaded"),
    "504": status(504),
    "429 and an invalid Retry-After": status(429, Retry_After="soon"),
    "a reset": raw(b"", reset=True),
    "the end of the connection": raw(b""),
    "a reset within the status": raw(b"HTTP/1.1 200", reset=True),
    "a status line that ends early": raw(b"HTTP/1.1 200 O"),
    "a reset within the headers": raw(b"HTTP/1.1 200 OK\r\nConte", reset=True),
    "a header that ends early": raw(b"HTTP/1.1 200 OK\r\nConte"),
    "headers that end early": raw(b"HTTP/1.1 200 OK\r\nX: y\r\n"),
    "garbage": raw(JUNK),
    "a header without end": raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000),
}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN_BODIES: dict[str, Answer] = {
    "a reset within the body": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", takes=True, reset=True),
    "a body that ends early": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", takes=True),
    "a body that does not end": hang(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", takes=True),
    "a body that trickles": trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\nabc", takes=True),
    "a chunk that ends early": raw(CHUNKED + b"ff\r\nabc", takes=True),
    "chunks that are none": raw(CHUNKED + b"zz\r\nabc", takes=True),
    "an endless body": raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000, takes=True),
    "no protobuf": status(200, b"\xff\xff\xff"),
    "half a protobuf": status(200, b"\x0a\x7f"),
    "half a varint": status(200, b"\x0a\x02\x08\x80"),
    "JSON": status(200, b'{"partialSuccess": {}}'),
    "whole chunks": raw(CHUNKED + b"2\r\n\x0a\x00\r\n0\r\n\r\n", takes=True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_transient_fault_loses_nothing(collector: Start, export: Export, fault: str) -> None:
    there = collector(FAULTS[fault], FAULTS[fault], status(200))
    pipeline = export(there.endpoint, backoff=PATIENT)
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline.exported == 10)
    assert there.taken == numbered(10)
    assert len(there.requests) >= 3


@pytest.mark.parametrize("fault", [*FAULTS, "refused"])
def test_permanent_fault_counts_every_dropped_span(collector: Start, export: Export, fault: str) -> None:
    pipeline = export(refused() if fault == "refused" else collector(FAULTS[fault]).endpoint)
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline.dropped["export_error"] == 10)
    assert (pipeline.ended, pipeline.exported) == (10, 0)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 415, 500, 501, 505])
def test_permanent_status_is_not_retried(
    collector: Start, export: Export, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    there = collector(status(code, b"no\nsuch thing " + b"x" * 1_000))
    pipeline = export(there.endpoint)
    for count in (10, 20):
        put_together(pipeline, numbered(10))
        eventually(lambda count=count: pipeline.dropped["export_error"] == count)
    assert len(there.requests) == 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"http://127.0.0.1:{there.port}/v1/traces: HTTP {code} no; such thing xxx" in record.getMessage()
    assert len(record.getMessage()) < 400


def test_redirects_are_not_followed(collector: Start, export: Export, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = collector()
    there = collector(status(307, Location=f"{elsewhere.endpoint}/v1/traces"))
    pipeline = export(there.endpoint)
    put_all(pipeline, ["s"])
    eventually(lambda: pipeline.dropped["export_error"] == 1)
    assert not elsewhere.requests
    assert "flowrt follows no redirects" in caplog.text


def test_protobuf_status_message_is_logged_as_text(
    collector: Start, export: Export, caplog: pytest.LogCaptureFixture
) -> None:
    body = b"\x08\x03\x12\x0bno such key"
    there = collector(status(400, body, Content_Type="application/x-protobuf"))
    pipeline = export(there.endpoint)
    put_all(pipeline, ["s"])
    eventually(lambda: pipeline.dropped["export_error"] == 1)
    assert "HTTP 400 no such key; dropped 1 spans" in caplog.text


@pytest.mark.parametrize("reads_on", [True, False])
def test_response_before_the_body_is_read_is_used(
    export: Export, reads_on: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse_early(server: socket.socket) -> None:
        sock, _ = server.accept()
        with sock:
            sock.recv(100)
            sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            while reads_on and sock.recv(65_536):  # unread bytes would make the close a connection reset
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=refuse_early, args=(server,))
        thread.start()
        pipeline = export(f"http://127.0.0.1:{server.getsockname()[1]}", backoff=PATIENT)
        pipeline.put(spans_named(["x" * 8_000_000])[0])
        eventually(lambda: pipeline.dropped["export_error"] == 1)
        thread.join(HANG_GUARD_S)
    assert "HTTP 413; dropped 1 spans" in caplog.text


# -- retry delays of the collector -------------------------------------------------------------------------------------


def test_retry_after_in_seconds_is_honoured(collector: Start, export: Export) -> None:
    there = collector(status(429, Retry_After="1"), status(200))
    pipeline = export(there.endpoint, backoff=PATIENT)
    put_all(pipeline, ["s"])
    eventually(lambda: pipeline.exported == 1)
    assert there.requests[1].at - there.requests[0].at >= 0.95


def test_retry_after_as_a_date_is_honoured(collector: Start, export: Export) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)  # whole seconds: 2 to 3 from now
    there = collector(status(503, Retry_After=date), status(200))
    pipeline = export(there.endpoint, backoff=PATIENT)
    put_all(pipeline, ["s"])
    eventually(lambda: pipeline.exported == 1)
    assert there.requests[1].at - there.requests[0].at >= 1.5


def test_retry_after_of_an_hour_does_not_delay_close(collector: Start, export: Export) -> None:
    there = collector(status(429, Retry_After="3600"))
    pipeline = export(there.endpoint, backoff=Backoff())
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline._threads is not None and pipeline._threads[1].retry_after_until)
    began = time.monotonic()
    pipeline.close(HANG_GUARD_S)
    assert time.monotonic() - began < HANG_GUARD_S / 2
    assert (pipeline.dropped["shutdown"], len(there.requests)) == (10, 1)


def test_rejected_spans_are_counted_and_the_reason_is_logged(
    collector: Start, export: Export, caplog: pytest.LogCaptureFixture
) -> None:
    there = collector(partial(3, "too\nold"))
    pipeline = export(there.endpoint)
    put_together(pipeline, numbered(10))
    assert pipeline.force_flush()
    assert (pipeline.exported, pipeline.dropped["export_error"]) == (7, 3)
    assert "too; old; the collector rejected 3 of 10 spans" in caplog.text


@pytest.mark.parametrize("body", BROKEN_BODIES)
def test_success_with_any_body_counts_as_exported(
    collector: Start, export: Export, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    there = collector(BROKEN_BODIES[body])
    pipeline = export(there.endpoint, timeout_s=2.0)  # for the status, too
    for number in range(2):
        put_all(pipeline, [f"s{number}"])
        assert pipeline.force_flush()
    assert there.taken == numbered(2)
    assert (pipeline.exported, sum(pipeline.dropped.values())) == (2, 0)
    assert not caplog.records


# -- hanging collector -------------------------------------------------------------------------------------------------

HANGS: dict[str, Answer] = {
    "without an answer": hang(),
    "within the status line": hang(b"HTTP/1.1 2"),
    "within the headers": hang(b"HTTP/1.1 200 OK\r\nX: y\r\n"),
    "trickling a status line": trickle(b"HTTP/1.1 200 "),
    "trickling a header": trickle(b"HTTP/1.1 200 OK\r\nX: "),
}


@pytest.mark.parametrize("how", [*HANGS, "a body that does not end", "a body that trickles"])
def test_hanging_collector_does_not_delay_close(collector: Start, export: Export, how: str) -> None:
    pipeline = export(collector((HANGS | BROKEN_BODIES)[how]).endpoint, backoff=PATIENT, timeout_s=3_600)
    put_all(pipeline, numbered(10))
    began = time.monotonic()
    pipeline.close(0.3)
    assert time.monotonic() - began < HANG_GUARD_S / 2
    assert (pipeline.exported, pipeline.dropped["shutdown"]) == (0, 10)
    assert_threads_end(pipeline)


@pytest.mark.parametrize("how", HANGS)
def test_hanging_collector_is_aborted_after_the_timeout(collector: Start, export: Export, how: str) -> None:
    there = collector(HANGS[how], status(200))
    pipeline = export(there.endpoint, backoff=PATIENT, timeout_s=0.2)
    put_all(pipeline, numbered(10))
    eventually(lambda: pipeline.exported == 10)
    assert set(there.taken) == set(numbered(10))  # on a busy machine, an answer may come too late as well


def test_unaccepted_connections_do_not_delay_close(export: Export) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        filling = []
        for _ in range(3):  # connections over the backlog are not accepted
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
            filling.append(sock)
        pipeline = export(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=1.0, backoff=PATIENT)
        put_all(pipeline, numbered(10))
        began = time.monotonic()
        pipeline.close(0.2)
        assert time.monotonic() - began < HANG_GUARD_S / 2
        assert pipeline.dropped["shutdown"] == 10
        for sock in filling:
            sock.close()


def test_collector_restart_loses_nothing(collector: Start, export: Export) -> None:
    there = collector()
    pipeline = export(there.endpoint, backoff=PATIENT)
    put_all(pipeline, numbered(100))
    assert pipeline.force_flush()
    there.close()
    put_all(pipeline, [f"t{number}" for number in range(100)])
    assert not pipeline.force_flush(200)
    again = collector(port=there.port)
    put_all(pipeline, [f"u{number}" for number in range(100)])
    assert pipeline.force_flush()
    assert there.taken == numbered(100)
    assert sorted(again.taken) == sorted(f"{letter}{number}" for letter in "tu" for number in range(100))
    assert pipeline.exported == 300


def test_connection_closed_while_idle_is_replaced(
    collector: Start, export: Export, caplog: pytest.LogCaptureFixture
) -> None:
    there = collector(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", takes=True))
    pipeline = export(there.endpoint)
    for number in range(3):
        put_all(pipeline, [f"s{number}"])
        assert pipeline.force_flush()
        eventually(lambda number=number: there.has_closed(number))
    assert there.taken == numbered(3)
    assert not caplog.records


# -- secrets and forks -------------------------------------------------------------------------------------------------


def test_no_secret_is_logged(export: Export, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer canary,broken canary,caf\u00e9=canary")
    endpoint = refused().replace("://", "://user:canary@") + "?key=canary"
    settings = read_settings(endpoint, headers={"x-key": "canary"})
    pipeline = export(endpoint, headers={"x-key": "canary"})
    put_all(pipeline, ["s"])
    eventually(lambda: pipeline.dropped["export_error"] == 1)
    assert caplog.records
    assert "canary" not in caplog.text + repr(settings).partition("endpoint")[0] + settings.where


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_child_opens_its_own_connection(collector: Start) -> None:
    there = collector()
    code = f"""
    import os
    from flowrt.telemetry.otlp import SpanPipeline, make_transport, read_settings
    from tests.telemetry.otlp.harness import encode, spans_named
    pipeline = SpanPipeline(make_transport(read_settings({there.endpoint!r})), encode)
    def export(name):
        pipeline.put(spans_named([name])[0])
        assert pipeline.force_flush(10_000)
    export("before")
    if (child := os.fork()) == 0:
        export("child")
        pipeline.close(10)
        assert pipeline.exported == 1
        os._exit(0)
    export("beside")
    assert os.waitpid(child, 0)[1] == 0
    export("after")
    pipeline.close(10)
    assert pipeline.exported == 3
    """
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )
    by_connection: dict[int, list[str]] = {}
    for request in there.requests:
        by_connection.setdefault(request.connection, []).extend(request.names)
    assert sorted(by_connection.values()) == [["before", "beside", "after"], ["child"]]
