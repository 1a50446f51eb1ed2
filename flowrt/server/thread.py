"""Telemetry server: uvicorn's HTTP protocol on its own loop and thread, so it answers while the main loop is busy."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
import sys
import threading
from contextlib import suppress
from typing import Final

from flowrt._util.trace_url import check_trace_url
from flowrt.server.app import TelemetryApp
from flowrt.server.auth import check_token, guarded
from flowrt.server.responses import ASGIApp
from flowrt.telemetry.live import LIVE

__all__ = ["TelemetryServer"]

_KEEP_ALIVE_S: Final = 5
_HANDSHAKE_S: Final = 10.0
_STOP_S: Final = 1.0
_START_S: Final = 5.0

_Path = str | os.PathLike[str]


class TelemetryServer:
    """HTTP server in a daemon thread. The constructor binds the socket; `start` serves it.

    Args:
        port: The port to bind; 0 chooses a free one.
        host: The address to bind.
        token: The token that requests need, as a bearer token or as the password of basic authentication. Required
            for an address that other machines can reach.
        cert: PEM file with the certificate and its chain. With it the server speaks TLS.
        key: PEM file with the private key of the certificate, if `cert` does not hold it.
        app: The application to serve, by default `asgi_app()`.
        trace_url: URL of a trace in a tracing UI, with `{trace_id}` in place of its id, for links on the live page.
        live_control: True to let the live page pause, drain and cancel batches. Needs a token.

    Attributes:
        host: The bound address.
        port: The bound port.
        url: The server's URL, without a trailing slash.

    Raises:
        ValueError: Other machines can reach the address and no token is given, the token is blank, the port is out of
            range, the certificate cannot be used, `trace_url` is not a URL with `{trace_id}`, or `live_control` is
            given without a token.
        OSError: The address cannot be bound. The message says why and what to do.
    """

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        token: str | None = None,
        cert: _Path | None = None,
        key: _Path | None = None,
        app: ASGIApp | None = None,
        trace_url: str | None = None,
        live_control: bool = False,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
            raise ValueError(f"the metrics port must be an integer from 0 (a free one) to 65535, not {port!r}")
        check_token(token)
        if token is None and not _is_loopback(host):
            raise ValueError(
                f"binding {host!r} lets others read the telemetry: give a token, or bind 127.0.0.1 (the default)"
            )
        if live_control and token is None:
            raise ValueError("live_control lets every reader of the live page cancel batches: give a token as well")
        check_trace_url(trace_url)
        self._tls = None if cert is None and key is None else _tls(cert, key)
        self._socket = _bind(host, port)
        self._own_app: TelemetryApp | None = None
        if app is None:
            app = self._own_app = TelemetryApp(trace_url=trace_url, live_control=live_control)
        self._app = guarded(app, token)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flowrt-server", daemon=True)

    def start(self) -> None:
        """Serve until `stop()`, from when the thread has imported uvicorn."""
        self._thread.start()  # until it serves, the bound socket keeps the connections

    def stop(self) -> None:
        """Stop serving. Active requests have one second to end. Later calls do nothing."""
        if self._thread.ident is not None:
            self._ready.wait(_START_S)
        loop, app = self._loop, self._own_app
        if loop is not None:
            if app is not None and self._thread.is_alive():
                with suppress(Exception):  # a failed sample must not keep the port bound
                    LIVE.publish()  # open pages show how the batches ended
            with suppress(RuntimeError):  # the loop is already closed
                loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_STOP_S * 2)
        self._socket.close()
        if app is not None:
            app.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        from uvicorn.server import ServerState  # noqa: PLC0415  # loading it would take a third of a Runtime's start

        from flowrt.server.connection import (  # noqa: PLC0415
            HEAD_BYTES,
            Config,
            Connection,
            ConnectionPool,
            Handshake,
        )

        self._loop = loop = asyncio.get_running_loop()
        config = Config(
            self._app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            timeout_keep_alive=_KEEP_ALIVE_S,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        config.load()
        state = ServerState()
        state.default_headers = config.encoded_headers
        pool = ConnectionPool(loop.time)
        tls = self._tls

        def connect() -> asyncio.Protocol:
            connection = Connection(config, state, pool, loop)
            return connection if tls is None else Handshake(connection, pool, tls, _HANDSHAKE_S, _STOP_S)

        server = await loop.create_server(connect, sock=self._socket)
        self._ready.set()
        await self._stop.wait()
        server.close()
        if self._own_app is not None:
            self._own_app.end_streams()
        for connection in list(state.connections):
            connection.shutdown()
        deadline = loop.time() + _STOP_S
        while state.connections and loop.time() < deadline:  # noqa: ASYNC110  # uvicorn keeps a set, no event
            await asyncio.sleep(0.01)
        for connection in list(state.connections):
            connection.transport.abort()

    def __repr__(self) -> str:
        return f"<TelemetryServer at {self.url}, {'serving' if self._thread.is_alive() else 'not serving'}>"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(cert: _Path | None, key: _Path | None) -> ssl.SSLContext:
    if cert is None:
        raise ValueError("a TLS key needs its certificate: give both, or a certificate's file that holds the key too")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password="")  # without one, OpenSSL would prompt on the terminal
    except (OSError, ValueError) as exc:  # SSLError is an OSError
        reason = exc.strerror if isinstance(exc, FileNotFoundError) else exc
        files = f"{os.fspath(cert)!r}" + ("" if key is None else f" with key {os.fspath(key)!r}")
        raise ValueError(
            f"the TLS certificate {files} cannot be used: {reason}; give PEM files and a key without a password"
        ) from exc
    return context


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # on Windows the option lets two processes share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(128)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        reason = exc.strerror or str(exc)
        fix = "choose another port, or 0 for a free one"
        if exc.errno == errno.EADDRINUSE:
            reason = "the port is in use"
        elif exc.errno not in (errno.EACCES, errno.EPERM):
            fix = "choose an address of this machine"
        raise OSError(exc.errno, f"cannot serve metrics on {host}, port {port}: {reason}; {fix}") from exc
    return sock
