"""The server: uvicorn's HTTP on a loop and a thread of its own, so that it answers whatever the main loop does."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import sys
import threading
from contextlib import suppress
from typing import Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from flowrt.server.app import ASGIApp, asgi_app, guarded

__all__ = ["TelemetryServer"]

_EXCHANGE_S: Final = 10.0  # a request and its response take no longer, or the connection is dropped
_KEEP_ALIVE_S: Final = 5
_HEAD_BYTES: Final = 16_384
_CONNECTIONS: Final = 128  # one more, and the oldest is dropped: idle ones cannot keep anybody out
_STOP_S: Final = 1.0


class TelemetryServer:
    """Serves the endpoints from a daemon thread, on a socket that is bound at once.

    Args:
        port: 0 for a free one.
        host: The address to bind.
        token: A bearer token that requests must bring; needed to bind an address that others can reach.
        app: What to serve, by default `asgi_app()`.

    Attributes:
        host: The address that is bound.
        port: The port that is bound.
        url: Where it answers, without a trailing slash.

    Raises:
        ValueError: The address is reachable from outside and there is no token, or the port is out of range.
        OSError: The address cannot be bound; the message says why and what to do.
    """

    def __init__(
        self, port: int, host: str = "127.0.0.1", *, token: str | None = None, app: ASGIApp | None = None
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
            raise ValueError(f"the metrics port must be an integer from 0 (a free one) to 65535, not {port!r}")
        if not token and not _is_loopback(host):
            raise ValueError(
                f"binding {host!r} lets others read the telemetry: give a token, or bind 127.0.0.1 (the default)"
            )
        self._app = guarded(asgi_app() if app is None else app, token or None)
        self._socket = _bind(host, port)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flowrt-server", daemon=True)

    def start(self) -> None:
        """Serve, from now until `stop()`."""
        self._thread.start()
        self._ready.wait(5.0)

    def stop(self) -> None:
        """Stop serving: requests under way get a moment to end. Later calls do nothing."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has been closed already
                loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_STOP_S * 2)
        self._socket.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        config = _Config(
            self._app,
            http=_Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            limit_concurrency=2 * _CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_S,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        config.load()
        state = ServerState()
        state.default_headers = config.encoded_headers
        newest_last: dict[_Connection, None] = {}
        server = await loop.create_server(lambda: _Connection(config, state, newest_last, loop), sock=self._socket)
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        deadline = loop.time() + _STOP_S
        while state.connections and loop.time() < deadline:  # noqa: ASYNC110  # uvicorn keeps a set, no event
            await asyncio.sleep(0.01)
        for connection in list(state.connections):
            connection.transport.abort()

    def __repr__(self) -> str:
        return f"<TelemetryServer at {self.url}, {'serving' if self._thread.is_alive() else 'not serving'}>"


class _Config(uvicorn.Config):
    """uvicorn's settings; they leave the process's logging alone, which a uvicorn of the user's may share."""

    def configure_logging(self) -> None:
        """Do nothing."""


class _Connection(H11Protocol):
    """One connection, which cannot be held open by sending or reading slowly."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        newest_last: dict[_Connection, None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, state, {}, loop)
        self._all = newest_last
        self.logger = _QUIET
        self.access_logger = _QUIET
        self.access_log = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._restart_deadline()
        if len(self._all) >= _CONNECTIONS:
            oldest = next(iter(self._all))
            del self._all[oldest]
            oldest.transport.abort()
        self._all[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._all.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        """Take the data in pieces: h11 measures a head only while it is incomplete."""
        for start in range(0, len(data), _HEAD_BYTES):
            if not self.transport.is_closing():
                super().data_received(data[start : start + _HEAD_BYTES])

    def on_response_complete(self) -> None:
        self._restart_deadline()
        super().on_response_complete()

    def _restart_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(_EXCHANGE_S, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; a head that is too long is told so."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status != 431:
            super().send_400_response(msg)
            return
        response = h11.Response(status_code=431, headers=[("connection", "close"), ("content-length", "0")])
        self.transport.write(self.conn.send(response) or b"")
        self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
        self.transport.close()


_QUIET: Final = logging.Logger("flowrt.server.http", logging.CRITICAL + 1)  # outside the hierarchy: nobody hears it


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # where it would let two processes share the port
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
