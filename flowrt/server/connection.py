"""Connections of the server: uvicorn's HTTP protocol with a deadline per exchange and a bound on their number."""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from flowrt.server.responses import Receive, Scope, Send

__all__ = ["HEAD_BYTES", "Config", "Connection", "ConnectionPool", "Handshake"]

EXCHANGE_S: Final = 10.0  # for one request and its response; then the connection is aborted
HEAD_BYTES: Final = 16_384
_NEW_S: Final = 0.5  # a new connection has this long to send its request, even above the limit
_FLOOD: Final = 1.25  # above this multiple of the limit, new connections lose that grace
_MAX_CONNECTIONS: Final = 512
_SILENT: Final = logging.Logger("flowrt.server.http", logging.CRITICAL + 1)  # outside the hierarchy: has no handlers


class Config(uvicorn.Config):
    """uvicorn's settings without its logging set-up, which would change the loggers of a uvicorn that the user runs."""

    def configure_logging(self) -> None:
        """Do nothing."""


class _Abortable(Protocol):
    """Member of the pool: a connection, or a TLS handshake that becomes one."""

    transport: asyncio.Transport


class ConnectionPool:
    """Bounded set of connections. At the limit, the oldest idle one is aborted, so no client can lock others out.

    Idle connections (no request yet, or none since the last response) go first, then connections in an exchange,
    oldest first. A new connection has half a second to send its request, even if that exceeds the limit.

    Args:
        clock: Monotonic clock, in seconds.
        limit: Maximum number of connections. By default 512, or half of the file descriptors that the process may
            open if that is less.
    """

    def __init__(self, clock: Callable[[], float], limit: int | None = None) -> None:
        self._clock = clock
        self._limit = _default_limit() if limit is None else limit
        self._idle: dict[_Abortable, float] = {}  # oldest first, with the time since which it is idle
        self._busy: dict[_Abortable, float] = {}  # oldest first, with the time at which its request came

    def add(self, connection: _Abortable) -> None:
        """Add a new connection; abort older ones if the pool is full."""
        now = self._clock()
        while (size := len(self._idle) + len(self._busy)) >= self._limit:
            oldest, since = next(iter((self._idle or self._busy).items()))
            if now - since < _NEW_S and size < _FLOOD * self._limit:
                break
            self.remove(oldest)
            oldest.transport.abort()
        self._idle[connection] = now

    def mark_busy(self, connection: _Abortable) -> None:
        """Record that the connection has sent the head of a request."""
        if self._idle.pop(connection, None) is not None:
            self._busy[connection] = self._clock()

    def mark_idle(self, connection: _Abortable) -> None:
        """Record that the response is complete."""
        if self._busy.pop(connection, None) is not None:
            self._idle[connection] = self._clock()

    def remove(self, connection: _Abortable) -> None:
        """Remove the connection: it is closed, or it has become a stream."""
        self._idle.pop(connection, None)
        self._busy.pop(connection, None)


def _default_limit() -> int:
    """Return the limit that the process's file descriptors allow.

    It is generous because slow clients that are aborted reconnect at once; waiting for their deadline costs less.
    """
    try:
        import resource  # noqa: PLC0415  # not on every platform
    except ImportError:
        return _MAX_CONNECTIONS
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_CONNECTIONS if allowed == resource.RLIM_INFINITY else max(16, min(_MAX_CONNECTIONS, allowed // 2))


class _Parser(h11.Connection):
    """HTTP parser with a limit for request heads.

    h11 itself measures a head only while it is incomplete, so a longer one passes if it arrives in one piece.
    """

    def next_event(self) -> Any:
        """Return the next event.

        Raises:
            RemoteProtocolError: The request is malformed, or its head is longer than `HEAD_BYTES`.
        """
        if self.their_state is not h11.IDLE:
            return super().next_event()
        buffered = len(self.trailing_data[0])
        event = super().next_event()
        if isinstance(event, h11.Request) and buffered - len(self.trailing_data[0]) > HEAD_BYTES:
            raise h11.RemoteProtocolError(f"the head is longer than {HEAD_BYTES:,} bytes", error_status_hint=431)
        return event


class Connection(H11Protocol):
    """HTTP connection with a deadline per exchange, which slow sending or reading cannot extend.

    An event stream has no total deadline: each event has its own. Streams do not count towards the pool's limit.

    Args:
        config: uvicorn's settings.
        state: State that uvicorn shares among connections.
        pool: The pool of connections that are not streams.
        loop: The server's loop.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        pool: ConnectionPool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, state, {}, loop)
        self.conn = _Parser(h11.SERVER, HEAD_BYTES)
        self._served_app: Any = self.app
        self.app = self._serve
        self._pool = pool
        self.logger = _SILENT
        self.access_logger = _SILENT
        self.access_log = False
        self._streaming = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Join the pool and start the first deadline."""
        super().connection_made(transport)
        self._restart_deadline()
        self._pool.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the pool and cancel the deadline."""
        super().connection_lost(exc)
        self._pool.remove(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def on_response_complete(self) -> None:
        """Start the deadline of the next request."""
        self._restart_deadline()
        if self._streaming:
            self._streaming = False
            self._pool.add(self)
        else:
            self._pool.mark_idle(self)
        super().on_response_complete()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; an event stream gets a deadline per event."""

        async def send_within(message: Any) -> None:
            if message["type"] == "http.response.start":
                events = (b"content-type", b"text/event-stream") in message["headers"]
                self._streaming = events and scope["method"] == "GET"
                if self._streaming:
                    self._pool.remove(self)
            if not self._streaming:
                await send(message)
                return
            self._restart_deadline()  # `send` waits while the client reads too slowly
            await send(message)
            if self._streaming and self._deadline is not None:  # after the last event it belongs to the next request
                self._deadline.cancel()

        self._pool.mark_busy(self)
        await self._served_app(scope, receive, send_within)

    def _restart_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(EXCHANGE_S, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request with 400, and a head that is too long with 431."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status != 431:
            super().send_400_response(msg)
            return
        response = h11.Response(status_code=431, headers=[("connection", "close"), ("content-length", "0")])
        self.transport.write(self.conn.send(response) or b"")
        self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
        self.transport.close()


class Handshake(asyncio.Protocol):
    """TLS handshake of a connection. It counts as an idle member of the pool until it succeeds.

    Args:
        connection: The connection that takes over the encrypted transport.
        pool: The pool of connections that are not streams.
        tls: The TLS context with the server's certificate.
        handshake_s: Time limit of the handshake, in seconds.
        shutdown_s: Time limit of the TLS shutdown, in seconds.
    """

    def __init__(
        self, connection: Connection, pool: ConnectionPool, tls: ssl.SSLContext, handshake_s: float, shutdown_s: float
    ) -> None:
        self.transport: asyncio.Transport
        self._connection = connection
        self._pool = pool
        self._tls = tls
        self._handshake_s = handshake_s
        self._shutdown_s = shutdown_s
        self._early: list[bytes] = []
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the pool and begin the handshake."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()  # start_tls must see the first bytes of the client
        self._pool.add(self)
        self._task = asyncio.get_running_loop().create_task(self._handshake())

    def data_received(self, data: bytes) -> None:
        """Keep application data that arrived in the same packet as the end of the handshake."""
        self._early.append(data)

    async def _handshake(self) -> None:
        loop, transport = asyncio.get_running_loop(), self.transport
        secure: asyncio.Transport | None = None
        try:
            with suppress(OSError):  # the handshake failed; SSLError and TimeoutError are OSErrors
                secure = await loop.start_tls(
                    transport,
                    self,
                    self._tls,
                    server_side=True,
                    ssl_handshake_timeout=self._handshake_s,
                    ssl_shutdown_timeout=self._shutdown_s,
                )
        finally:
            self._pool.remove(self)
        if secure is None:
            return
        if transport.is_closing():  # the pool aborted it during the handshake
            secure.abort()
            return
        secure.set_protocol(self._connection)
        self._connection.connection_made(secure)
        for data in self._early:
            self._connection.data_received(data)
