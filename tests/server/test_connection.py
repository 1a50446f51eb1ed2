"""Deadlines of a connection: each exchange has its own."""

from __future__ import annotations

import socket
import time

import pytest

import flowrt.server.connection
from flowrt.server import TelemetryServer

HANG_S = 20.0
EXCHANGE_S = 3.0
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_deadline_starts_anew_after_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept connection lives on past the deadline of its first exchange."""
    monkeypatch.setattr(flowrt.server.connection, "EXCHANGE_S", EXCHANGE_S)
    server = TelemetryServer(0)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
            began = time.monotonic()
            for pause_s in (0.0, 0.55 * EXCHANGE_S, 0.55 * EXCHANGE_S):
                time.sleep(pause_s)
                client.sendall(REQUEST)
                answer = b""
                while not answer.endswith(b"\r\n\r\nok\n"):
                    received = client.recv(1000)
                    assert received, "the connection was closed"
                    answer += received
            assert time.monotonic() - began > EXCHANGE_S
    finally:
        server.stop()
