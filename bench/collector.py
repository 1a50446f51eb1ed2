"""OTLP collector in a process of its own: stores request bodies as they come, and parses them when asked for a count.

While a run is measured it does nothing else: it neither decompresses nor parses, so that its work does not compete for
the machine's cores and caches with what is measured.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.request import Request, urlopen

__all__ = ["collector", "count_spans"]


_NO_ITEMS: Final = ("batch ", "attempt ")  # how flowrt names spans of batches and attempts


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    delay_s = 0.0
    bodies: list[tuple[bytes, bool]] = []  # noqa: RUF012  # shared by all handlers: body, and whether it is compressed
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.delay_s:
            time.sleep(self.delay_s)
        with self.lock:
            self.bodies.append((body, self.headers.get("Content-Encoding") == "gzip"))
        self._answer(b"")

    def do_GET(self) -> None:
        """Answer with the number of different item spans since the last count."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # not in the parent
            ExportTraceServiceRequest,
        )

        with self.lock:
            bodies = self.bodies.copy()
            self.bodies.clear()
        spans: set[bytes] = set()  # a span sent twice must not make up for a lost one
        for stored, compressed in bodies:
            body = gzip.decompress(stored) if compressed else stored
            for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope_spans in resource_spans.scope_spans:
                    spans.update(span.span_id for span in scope_spans.spans if not span.name.startswith(_NO_ITEMS))
        self._answer(str(len(spans)).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@contextmanager
def collector(delay_s: float = 0.0, not_on: int | None = None) -> Iterator[str]:
    """Run a collector in a process of its own; yields its URL.

    Args:
        delay_s: Delay of its answers, in seconds.
        not_on: Core that it must leave to what is measured there; None for any core.
    """
    command = [sys.executable, "-m", "bench.collector", str(delay_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # ourselves
    try:
        assert process.stdout is not None
        if not_on is not None and (others := os.sched_getaffinity(0) - {not_on}):
            os.sched_setaffinity(process.pid, others)
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def count_spans(url: str) -> int:
    """Number of different item spans that a collector has received since the last count."""
    with urlopen(Request(url), timeout=60) as answer:  # noqa: S310  # loopback
        return int(answer.read())


if __name__ == "__main__":
    _Handler.delay_s = float(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
