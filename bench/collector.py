"""A collector in a process of its own: takes OTLP over HTTP at once, and counts the spans when it is asked."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

__all__ = ["collector", "count_spans"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    delay_s = 0.0
    bodies: list[bytes] = []  # noqa: RUF012  # of the process, which serves nobody else
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        time.sleep(self.delay_s)
        with self.lock:
            self.bodies.append(body)
        self._answer(b"")

    def do_GET(self) -> None:
        """How many item spans have come since the last time this was asked."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # not in the parent
            ExportTraceServiceRequest,
        )

        with self.lock:
            bodies = self.bodies.copy()
            self.bodies.clear()
        count = 0
        for body in bodies:
            for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope_spans in resource_spans.scope_spans:
                    count += sum(not span.name.startswith("batch ") for span in scope_spans.spans)
        self._answer(str(count).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def collector(delay_s: float = 0.0) -> Iterator[str]:
    """Run one, and give its URL.

    Args:
        delay_s: How long it takes to answer, in seconds.
    """
    command = [sys.executable, "-m", "bench.collector", str(delay_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # ourselves
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def count_spans(url: str) -> int:
    """The item spans that a collector has received since this was last asked."""
    with urlopen(Request(url), timeout=60) as answer:  # noqa: S310  # loopback
        return int(answer.read())


if __name__ == "__main__":
    _Handler.delay_s = float(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
