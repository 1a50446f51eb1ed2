"""TLS server with generated certificates, and `flowrt top` as its client."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

import flowrt
import flowrt.server.connection
import flowrt.server.thread
from flowrt.cli.commands.top_client import Answer, Source
from flowrt.server import TelemetryServer
from tests.server.test_thread import assert_ended

HANG_S = 20.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a certificate authority, a server certificate, its key, and both in one file."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(folder / "authority"))
    made.private_key_pem.write_to_path(str(folder / "key"))
    made.private_key_and_cert_chain_pem.write_to_path(str(folder / "both"))
    for place, part in enumerate(made.cert_chain_pems):
        part.write_to_path(str(folder / "cert"), append=place > 0)
    return folder


@pytest.fixture
def server(files: Path) -> Iterator[TelemetryServer]:
    server = TelemetryServer(0, token="horse", cert=files / "cert", key=files / "key")
    server.start()
    yield server
    server.stop()


def test_server_answers_over_tls(server: TelemetryServer, files: Path) -> None:
    assert server.url == f"https://127.0.0.1:{server.port}"
    context = ssl.create_default_context(cafile=str(files / "authority"))
    client = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=HANG_S, context=context)
    client.request("GET", "/healthz", headers={"authorization": "Bearer horse"})
    assert client.getresponse().read() == b"ok\n"
    client.close()


def test_tls_server_gives_plain_http_no_answer(server: TelemetryServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        try:
            while chunk := client.recv(1000):
                answer += chunk
        except ConnectionResetError:
            pass
    assert b"HTTP" not in answer


def test_slow_handshake_is_aborted(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowrt.server.thread, "_HANDSHAKE_S", 0.2)
    server = TelemetryServer(0, cert=files / "both")
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
            began = time.monotonic()
            assert client.recv(1) == b""
            assert time.monotonic() - began < HANG_S / 2
    finally:
        server.stop()


def test_endless_handshakes_do_not_lock_clients_out(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowrt.server.thread, "_HANDSHAKE_S", 3 * HANG_S)
    monkeypatch.setattr(flowrt.server.connection, "_default_limit", lambda: 16)
    server = TelemetryServer(0, cert=files / "both")
    server.start()
    try:
        with contextlib.ExitStack() as stack:
            silent = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S))
                for _ in range(50)
            ]
            dropped, deadline = 0, time.monotonic() + HANG_S
            for client in silent:
                client.setblocking(False)
            while dropped < 50 - 20 and time.monotonic() < deadline:
                time.sleep(0.01)
                dropped = sum(is_dropped(client) for client in silent)
            assert dropped >= 50 - 20  # a quarter above the limit, for half a second
            context = ssl.create_default_context(cafile=str(files / "authority"))
            client_of = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=HANG_S, context=context)
            client_of.request("GET", "/healthz")
            assert client_of.getresponse().read() == b"ok\n"
            client_of.close()
    finally:
        server.stop()
    assert_ended(server)


def is_dropped(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    ("cert", "key", "reason"),
    [
        (None, "key", "a TLS key needs its certificate"),
        ("cert", None, "cannot be used"),
        ("nowhere", "key", "No such file or directory"),
        ("cert", "authority", "cannot be used"),
        ("key", "cert", "cannot be used"),
    ],
)
def test_unusable_certificate_files_raise_value_error(
    files: Path, cert: str | None, key: str | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        TelemetryServer(0, cert=cert and files / cert, key=key and files / key)


def test_runtime_serves_over_tls(files: Path) -> None:
    async def main() -> str:
        runtime = flowrt.Runtime.current()
        assert runtime is not None
        assert runtime.live_url is not None
        return runtime.live_url

    settings = {"metrics_cert": files / "cert", "metrics_key": str(files / "key")}
    assert flowrt.run(main(), metrics_port=0, log_level="ERROR", **settings).startswith("https://127.0.0.1:")


def test_top_connects_with_token_and_authority(server: TelemetryServer, files: Path) -> None:
    authority = str(files / "authority")

    def ask(token: str | None, cacert: str | None = authority) -> Answer:
        with Source(server.url, token=token, cacert=cacert) as source:
            return source.ask()

    answer = ask("horse")
    assert answer.state is not None
    assert json.dumps(answer.state["batches"]) == "[]"
    assert ask("mule") == Answer(problem="the token is wrong", refused=True)
    assert "set FLOWRT_METRICS_TOKEN" in (ask(None).problem or "")
    untrusted = ask("horse", None)
    assert untrusted.refused
    assert "the certificate is not trusted" in (untrusted.problem or "")
