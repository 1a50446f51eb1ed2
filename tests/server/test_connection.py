"""Deadlines of a connection: each exchange has its own."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

import flowrt.server.connection
from flowrt.server import TelemetryServer

HANG_S = 20.0
EXCHANGE_S = 2.0
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_deadline_starts_anew_after_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept connection lives on past its first deadline, and an idle one ends at the deadline after its response."""
    monkeypatch.setattr(flowrt.server.connection, "EXCHANGE_S", EXCHANGE_S)
    server = TelemetryServer(0)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
            began = time.monotonic()
            for pause_s in (0.0, 0.7 * EXCHANGE_S, 0.7 * EXCHANGE_S):
                time.sleep(pause_s)
                client.sendall(REQUEST)
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
            assert time.monotonic() - began > EXCHANGE_S
            client.sendall(b"G")  # a request that is never sent whole
            last = time.monotonic()
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1000) == b""
            assert time.monotonic() - last > 0.2 * EXCHANGE_S, "the deadline is that of this request, not of the last"
    finally:
        server.stop()
