"""A collector in a process of its own: takes OTLP over HTTP at once, and counts the spans when it is asked."""

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


_NO_ITEMS: Final = ("batch ", "attempt ")  # flowrt's names of spans that are not an item's


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
        """How many different item spans have come since the last time this was asked."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # not in the parent
            ExportTraceServiceRequest,
        )

        with self.lock:
            bodies = self.bodies.copy()
            self.bodies.clear()
        spans: set[bytes] = set()  # one that was sent twice does not make up for one that was lost
        for body in bodies:
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
        """Say nothing."""


@contextmanager
def collector(delay_s: float = 0.0, not_on: int | None = None) -> Iterator[str]:
    """Run one, and give its URL.

    Args:
        delay_s: How long it takes to answer, in seconds.
        not_on: A core to keep off, so that it takes nothing from what is measured there; None for no such core.
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
    """How many different item spans a collector has received since this was last asked."""
    with urlopen(Request(url), timeout=60) as answer:  # noqa: S310  # loopback
        return int(answer.read())


if __name__ == "__main__":
    _Handler.delay_s = float(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
