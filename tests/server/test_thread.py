"""TelemetryServer on real sockets: busy main thread, slow and hostile clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import flowrt.server.connection
import flowrt.server.thread
from flowrt.server import TelemetryServer

HANG_S = 20.0


@pytest.fixture
def server() -> Iterator[TelemetryServer]:
    server = TelemetryServer(0)
    server.start()
    yield server
    server.stop()


def get(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=HANG_S) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def exchange(server: TelemetryServer, *packets: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # the server may answer before it has read everything
            for packet in packets:
                client.sendall(packet)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := client.recv(65_536):
                answer += chunk
        return answer


def assert_ended(server: TelemetryServer) -> None:
    """Assert that a stopped server's thread ends: `stop` waits for it for two seconds only."""
    server._thread.join(HANG_S)
    assert not server._thread.is_alive()


def test_request_waits_while_the_server_is_still_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, run = threading.Event(), TelemetryServer._run

    def slow(self: TelemetryServer) -> None:
        assert loaded.wait(HANG_S)
        run(self)

    monkeypatch.setattr(TelemetryServer, "_run", slow)
    server = TelemetryServer(0)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        loaded.set()
        assert client.recv(15) == b"HTTP/1.1 200 OK"
    server.stop()
    assert_ended(server)


def test_server_that_is_stopped_while_it_loads_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    run, crashes = TelemetryServer._run, []
    monkeypatch.setattr(threading, "excepthook", crashes.append)

    def slow(self: TelemetryServer) -> None:
        time.sleep(0.2)
        run(self)

    monkeypatch.setattr(TelemetryServer, "_run", slow)
    server = TelemetryServer(0)
    server.start()
    server.stop()
    assert_ended(server)
    assert crashes == []


def test_server_binds_the_loopback_address_only(server: TelemetryServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert get(f"{server.url}/healthz") == (200, b"ok\n")
    assert b"flowrt_build_info" in get(f"{server.url}/metrics")[1]
    assert server._socket.getsockname()[0] == "127.0.0.1"


def test_port_is_bound_before_start() -> None:
    server = TelemetryServer(0)
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S):
            assert "not serving" in repr(server)
    finally:
        server.stop()


def test_port_in_use_error_names_port_and_fix(server: TelemetryServer) -> None:
    with pytest.raises(OSError, match=f"port {server.port}: the port is in use; choose another port, or 0") as caught:
        TelemetryServer(server.port)
    assert caught.value.errno is not None


def test_foreign_address_error_names_address_and_fix() -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1, port 0: .*; choose an address of this machine"):
        TelemetryServer(0, "192.0.2.1", token="t")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104  # refused
def test_reachable_address_needs_a_token(host: str) -> None:
    with pytest.raises(ValueError, match="give a token"):
        TelemetryServer(0, host)


@pytest.mark.parametrize("token", ["", " ", "\t\n", "horse\n", " horse"])
def test_blank_or_padded_token_raises_value_error(token: str) -> None:
    with pytest.raises(ValueError, match="metrics token is empty or has white space around it: give a token"):
        TelemetryServer(0, token=token)


def test_server_on_all_addresses_requires_the_token() -> None:
    server = TelemetryServer(0, "0.0.0.0", token="horse")  # noqa: S104  # what is tested
    server.start()
    try:
        url = f"http://127.0.0.1:{server.port}/metrics"
        assert get(url)[0] == 401
        assert get(url, Authorization="Bearer horse")[0] == 200
    finally:
        server.stop()


@pytest.mark.parametrize("port", [-1, 65_536, "9464", True, 9464.0])
def test_invalid_port_raises_value_error(port: Any) -> None:
    with pytest.raises(ValueError, match="metrics port must be an integer"):
        TelemetryServer(port)


def test_server_answers_while_the_main_thread_is_busy(server: TelemetryServer) -> None:
    answers: list[tuple[int, bytes]] = []
    thread = threading.Thread(target=lambda: answers.append(get(f"{server.url}/healthz")))
    thread.start()
    deadline = time.monotonic() + HANG_S
    while not answers and time.monotonic() < deadline:
        sum(range(10_000))
    thread.join()
    assert answers == [(200, b"ok\n")]


def test_stop_ends_the_thread_and_frees_the_port(server: TelemetryServer) -> None:
    idle = socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S)
    with idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")  # leaves the connection open
        answer = b""
        while not answer.endswith(b"ok\n"):
            answer += idle.recv(1000)
        server.stop()
        assert idle.recv(1000) == b""
    assert_ended(server)
    server.stop()  # a second call does nothing
    again = TelemetryServer(server.port)
    again.stop()


def test_stop_ends_an_exchange_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowrt.server.thread, "_STOP_S", 0.1)
    asked = threading.Event()

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        await asyncio.sleep(3600)

    server = TelemetryServer(0, app=hangs)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked.wait(HANG_S)
        server.stop()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1000) == b""


def test_stop_frees_the_port_if_the_last_sample_fails(server: TelemetryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def publish() -> None:
        raise OSError("broken")

    monkeypatch.setattr(flowrt.telemetry.live.LIVE, "publish", publish)
    server.stop()
    assert_ended(server)
    TelemetryServer(server.port).stop()


def test_loggers_of_the_users_uvicorn_stay_unchanged() -> None:
    logger = logging.getLogger("uvicorn.access")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    before = [(name, logging.getLogger(name).level) for name in ("uvicorn", "uvicorn.error", "uvicorn.access")]
    try:
        server = TelemetryServer(0)
        server.start()
        get(f"{server.url}/healthz")
        server.stop()
        assert logger.handlers == [handler]
        assert logger.propagate
        assert [(name, logging.getLogger(name).level) for name, _ in before] == before
    finally:
        logger.removeHandler(handler)


def test_requests_are_not_logged(server: TelemetryServer, capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
    with caplog.at_level(logging.DEBUG):
        get(f"{server.url}/healthz")
        exchange(server, b"nonsense\r\n\r\n")
    assert [record for record in caplog.records if record.name.startswith(("uvicorn", "flowrt"))] == []
    assert capfd.readouterr() == ("", "")


def test_head_of_100_kilobytes_is_431(server: TelemetryServer) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"
    assert exchange(server, request).startswith(b"HTTP/1.1 431")


def request_of(head_bytes: int) -> bytes:
    start, end = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: ", b"\r\n\r\n"
    return start + b"a" * (head_bytes - len(start) - len(end)) + end


@pytest.mark.parametrize(
    ("head_bytes", "status"),
    [(16_383, 200), (16_384, 200), (16_385, 431), (17_000, 431), (24_000, 431), (31_000, 431), (33_000, 431)],
)
@pytest.mark.parametrize("packet_bytes", [1_000, 16_384, 100_000])
def test_head_limit_is_16_kib(server: TelemetryServer, head_bytes: int, status: int, packet_bytes: int) -> None:
    request = request_of(head_bytes)
    packets = [request[at : at + packet_bytes] for at in range(0, head_bytes, packet_bytes)]
    assert exchange(server, *packets).startswith(b"HTTP/1.1 %d" % status)


@pytest.mark.parametrize("head_bytes", [17_000, 31_000, 100_000])
def test_head_limit_holds_for_pipelined_requests(server: TelemetryServer, head_bytes: int) -> None:
    answer = exchange(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + request_of(head_bytes))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 431" in answer


def test_malformed_request_is_400(server: TelemetryServer) -> None:
    assert exchange(server, b"\x16\x03\x01 nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_pipelined_requests_are_answered_in_order(server: TelemetryServer) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    answer = exchange(server, one + b"\r\n" + one + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 2


def test_slow_exchange_is_aborted(server: TelemetryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowrt.server.connection, "EXCHANGE_S", 0.2)
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as slow:
        ended = False
        deadline = time.monotonic() + HANG_S
        while not ended and time.monotonic() < deadline:  # single bytes do not extend the deadline
            try:
                slow.sendall(b"G")
                slow.settimeout(0.02)
                ended = slow.recv(100) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended


def test_500_idle_connections_do_not_lock_clients_out(server: TelemetryServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S))
            client.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        began = time.monotonic()
        assert get(f"{server.url}/healthz") == (200, b"ok\n")
        assert time.monotonic() - began < HANG_S / 2


def test_client_that_does_not_read_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowrt.server.connection, "EXCHANGE_S", 0.3)
    aborted = threading.Event()

    async def much(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1_000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        aborted.set()

    server = TelemetryServer(0, app=much)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert aborted.wait(HANG_S)
            got = 0
            with contextlib.suppress(ConnectionResetError):
                while chunk := client.recv(1_000_000):
                    got += len(chunk)
        assert got < 100_000_000
    finally:
        server.stop()


def test_event_stream_outlives_the_exchange_deadline(server: TelemetryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowrt.server.connection, "EXCHANGE_S", 1.0)  # for each event, too
    monkeypatch.setattr("flowrt.telemetry.live.store._IDLE_EVERY_S", 0.6)
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
        client.sendall(b"GET /live/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while answer.count(b"event: state") < 3:
            chunk = client.recv(65_536)
            assert chunk
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"text/event-stream" in answer
        assert answer.count(b"event: snapshot") == 1
        server.stop()
        while chunk := client.recv(65_536):
            answer += chunk
        assert answer.endswith(b"0\r\n\r\n")  # ended in order, not aborted


def test_head_of_events_returns_headers_only(server: TelemetryServer) -> None:
    answer = exchange(server, b"HEAD /live/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b"text/event-stream" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_33rd_event_stream_is_503(server: TelemetryServer) -> None:
    request = b"GET /live/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S))
            client.sendall(request)
            assert client.recv(12) == b"HTTP/1.1 200"
        assert exchange(server, request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).startswith(
            b"HTTP/1.1 503"
        )


def test_page_policy_forbids_inline_script(server: TelemetryServer) -> None:
    for path in ("/", "/live/page.js", "/live/page.css"):
        with urllib.request.urlopen(server.url + path, timeout=HANG_S) as answer:  # noqa: S310
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'" in policy
            assert "unsafe-inline" not in policy
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["x-content-type-options"] == "nosniff"


def fake_connections(names: str, dropped: list[str]) -> dict[str, Any]:
    """Connections by name, whose abort is recorded."""

    class Fake:
        def __init__(self, name: str) -> None:
            self.transport = self
            self.name = name

        def abort(self) -> None:
            dropped.append(self.name)

    return {name: Fake(name) for name in names}


def test_flood_of_new_connections_loses_its_grace() -> None:
    dropped: list[str] = []
    pool = flowrt.server.connection.ConnectionPool(lambda: 0.0, limit=4)
    for connection in fake_connections("abcdefgh", dropped).values():
        pool.add(connection)
    assert dropped == ["a", "b", "c"], "five are 1.25 times the limit"


def test_full_pool_aborts_idle_connections_first() -> None:
    now = [0.0]
    dropped: list[str] = []
    pool = flowrt.server.connection.ConnectionPool(lambda: now[0], limit=4)
    each = fake_connections("abcdefgh", dropped)
    for name in "abcd":
        pool.add(each[name])
    pool.mark_busy(each["a"])
    pool.add(each["e"])  # all are new, so the pool exceeds its limit by one
    assert dropped == []
    now[0] = 1.0
    pool.add(each["f"])
    assert dropped == ["b", "c"]
    for name in "def":
        pool.mark_busy(each[name])
    now[0] = 2.0
    pool.add(each["g"])
    assert dropped == ["b", "c", "a"]
    pool.mark_idle(each["d"])
    now[0] = 3.0
    pool.add(each["h"])
    assert dropped == ["b", "c", "a", "g"]


async def two_events(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for more in (True, False):
        await send({"type": "http.response.body", "body": b"event: x\n\n", "more_body": more})


@contextlib.contextmanager
def after_a_stream(method: str, app: Any) -> Iterator[socket.socket]:
    """Connection on which a stream has ended and another request may follow."""
    server = TelemetryServer(0, app=app)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as client:
            client.sendall(f"{method} /live/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(b"\r\n0\r\n\r\n" if method == "GET" else b"\r\n\r\n"):
                chunk = client.recv(1000)
                assert chunk, "the connection was closed"
                answer += chunk
            yield client
    finally:
        server.stop()


STREAMS = pytest.mark.parametrize(("method", "app"), [("HEAD", None), ("GET", two_events)])


@STREAMS
def test_request_after_a_stream_has_a_deadline(method: str, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowrt.server.connection, "EXCHANGE_S", 2.0)
    with after_a_stream(method, app) as client, contextlib.suppress(ConnectionResetError):
        client.sendall(b"G")
        assert client.recv(1000) == b""


@STREAMS
def test_connection_rejoins_the_pool_after_a_stream(method: str, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[flowrt.server.connection.ConnectionPool] = []

    class Recorded(flowrt.server.connection.ConnectionPool):
        def __init__(self, clock: Callable[[], float]) -> None:
            super().__init__(clock)
            pools.append(self)

    monkeypatch.setattr(flowrt.server.connection, "ConnectionPool", Recorded)
    with after_a_stream(method, app):
        deadline = time.monotonic() + HANG_S
        while not pools[0]._idle and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pools[0]._idle
