"""Scripted collectors on loopback, and spans to send to them."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowrt.telemetry.otlp import Backoff, SpanPipeline, make_transport, read_settings

HANG_GUARD_S = 30.0
QUICK = Backoff(first_s=0.01, most_s=0.05, give_up_s=0.3)
PATIENT = Backoff(first_s=0.01, most_s=0.05, give_up_s=HANG_GUARD_S)


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """Encode spans with the SDK's OTLP encoder."""
    return encode_spans(spans).SerializeToString()


def names_in(payload: bytes) -> list[str]:
    """Names of the spans in a request, read by the official protobuf parser."""
    request = ExportTraceServiceRequest.FromString(payload)
    return [span.name for part in request.resource_spans for scope in part.scope_spans for span in scope.spans]


@dataclass
class Request:
    """Request that the collector received."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float

    @property
    def names(self) -> list[str]:
        return names_in(gzip.decompress(self.body) if self.headers.get("content-encoding") == "gzip" else self.body)


@dataclass
class Answer:
    """Scripted answer to one request.

    Attributes:
        act: Sends the answer.
        takes: True if the collector accepts the request before it answers.
    """

    act: Callable[[socket.socket, Collector], None]
    takes: bool = False


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    content = f"HTTP/1.1 {code} Whatever\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body
    return Answer(lambda sock, there: sock.sendall(content), takes=200 <= code < 300)


def slow(seconds: float, then: Answer) -> Answer:
    def act(sock: socket.socket, there: Collector) -> None:
        there.over.wait(seconds)
        then.act(sock, there)

    return Answer(act, then.takes)


def held(until: threading.Event, then: Answer) -> Answer:
    def act(sock: socket.socket, there: Collector) -> None:
        until.wait(HANG_GUARD_S)
        then.act(sock, there)

    return Answer(act, then.takes)


def partial(rejected: int, message: str) -> Answer:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    return status(200, response.SerializeToString(), Content_Type="application/x-protobuf")


def raw(content: bytes, *, takes: bool = False, reset: bool = False) -> Answer:
    """Sends the given bytes and closes the connection."""

    def act(sock: socket.socket, there: Collector) -> None:
        sock.sendall(content)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            sock.shutdown(socket.SHUT_RDWR)
        raise EOFError

    return Answer(act, takes)


def hang(content: bytes = b"", *, takes: bool = False) -> Answer:
    """Sends the given bytes and hangs."""

    def act(sock: socket.socket, there: Collector) -> None:
        sock.sendall(content)
        there.over.wait()

    return Answer(act, takes)


def trickle(content: bytes, *, takes: bool = False) -> Answer:
    """Sends the given bytes, then single bytes forever."""

    def act(sock: socket.socket, there: Collector) -> None:
        sock.sendall(content)
        while not there.over.wait(0.02):
            sock.sendall(b"x")

    return Answer(act, takes)


class Collector:
    """HTTP server with a script: one answer per request, the last one repeated.

    Attributes:
        requests: The received requests, in order.
        taken: Names of the accepted spans.
    """

    def __init__(self, *script: Answer, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.script = list(script or (status(200),))
        self.requests: list[Request] = []
        self.taken: list[str] = []
        self.over = threading.Event()
        self._tls = tls
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self._thread(self._accept)

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def has_closed(self, number: int) -> bool:
        """True if the collector has ended the connection of that number, from 0 on."""
        return self._sockets[number].fileno() == -1

    def close(self) -> None:
        self.over.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(HANG_GUARD_S)
            assert not thread.is_alive()

    def _thread(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self.over.is_set():
                sock, _ = self._server.accept()
                self._sockets.append(sock)
                self._thread(self._serve, sock, len(self._sockets))

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, EOFError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._sockets.append(sock)
            with sock, sock.makefile("rb") as lines:
                while not self.over.is_set():
                    request = self._read(lines, number)
                    with self._lock:
                        self.requests.append(request)
                        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                        if answer.takes:
                            self.taken += request.names
                    answer.act(sock, self)

    def _read(self, lines: Any, number: int) -> Request:
        first = lines.readline()
        if not first:
            raise EOFError
        headers = {}
        while line := lines.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = lines.read(int(headers["content-length"]))
        return Request(first.decode().strip(), headers, body, number, time.monotonic())


def spans_named(names: Sequence[str]) -> list[ReadableSpan]:
    """Finished SDK spans."""
    provider, kept = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("test")
    for name in names:
        tracer.start_span(name).end()
    provider.shutdown()
    return list(kept.get_finished_spans())


def numbered(count: int) -> list[str]:
    return [f"s{number}" for number in range(count)]


def put_all(pipeline: SpanPipeline, names: Sequence[str]) -> None:
    for span in spans_named(names):
        pipeline.put(span)


def put_together(pipeline: SpanPipeline, names: Sequence[str]) -> None:
    """Put a few spans in one step, so that one request has them all, whenever the encoder looks."""
    pipeline._waiting.extend(spans_named(names))
    pipeline.check_backlog(len(names))


@contextlib.contextmanager
def pipelines(defaults: dict[str, Any]) -> Iterator[Callable[..., SpanPipeline]]:
    """Makes pipelines from arguments of `read_settings` and a backoff; closes and checks them at the end."""
    made: list[SpanPipeline] = []

    def start(endpoint: str, **settings: Any) -> SpanPipeline:
        settings = defaults | settings
        backoff = settings.pop("backoff")
        transport = make_transport(read_settings(endpoint, **settings))
        made.append(SpanPipeline(transport, encode, delay_s=0.01, backoff=backoff))
        return made[-1]

    yield start
    for pipeline in made:
        pipeline.close(1.0)
        assert_balanced(pipeline)
        assert pipeline.waiting == 0


def assert_balanced(pipeline: SpanPipeline) -> None:
    """Assert that every span is exported, dropped or waiting."""
    assert pipeline.ended == pipeline.exported + sum(pipeline.dropped.values()) + pipeline.waiting


def assert_threads_end(pipeline: SpanPipeline) -> None:
    """Assert that a closed pipeline's threads end."""
    assert pipeline._threads is not None
    encoder, sender = pipeline._threads[0], pipeline._threads[1]._thread
    for thread in (encoder, sender):
        thread.join(HANG_GUARD_S)
        assert not thread.is_alive()


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + HANG_GUARD_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.005)
