"""One connection of the server: uvicorn's HTTP, with a deadline that no client can put off."""

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

__all__ = ["HEAD_BYTES", "Config", "Connection", "Handshake", "Places"]

EXCHANGE_S: Final = 10.0  # a request and its response take no longer, or the connection is dropped
HEAD_BYTES: Final = 16_384
_MOMENT_S: Final = 0.5
_FLOOD: Final = 1.25  # times as many, and no moment is given
_MOST: Final = 512
_QUIET: Final = logging.Logger("flowrt.server.http", logging.CRITICAL + 1)  # outside the hierarchy: nobody hears it


class Config(uvicorn.Config):
    """uvicorn's settings; they leave the process's logging alone, which a uvicorn of the user's may share."""

    def configure_logging(self) -> None:
        """Do nothing."""


class Placed(Protocol):
    """What takes a place."""

    transport: asyncio.Transport


class Places:
    """The connections that there is room for: for one more, another one goes, so that nobody can keep others out.

    First go those that have not asked anything yet, the oldest first, then those that are being answered. One that has
    just come is given a moment to ask, even if there are too many then.

    Args:
        clock: Seconds, ascending.
        most: How many there may be; 512 by default, or half of the descriptors that the process may have.
    """

    def __init__(self, clock: Callable[[], float], most: int | None = None) -> None:
        self._clock = clock
        self._most = _room() if most is None else most
        self._silent: dict[Placed, float] = {}  # newest last, with the time since when it is
        self._answered: dict[Placed, float] = {}

    def take(self, connection: Placed) -> None:
        """It has come."""
        now = self._clock()
        while (taken := len(self._silent) + len(self._answered)) >= self._most:
            oldest, since = next(iter((self._silent or self._answered).items()))
            if now - since < _MOMENT_S and taken < _FLOOD * self._most:
                break
            self.leave(oldest)
            oldest.transport.abort()
        self._silent[connection] = now

    def asked(self, connection: Placed) -> None:
        """It has sent the head of a request."""
        if self._silent.pop(connection, None) is not None:
            self._answered[connection] = self._clock()

    def waits(self, connection: Placed) -> None:
        """It has been answered."""
        if self._answered.pop(connection, None) is not None:
            self._silent[connection] = self._clock()

    def leave(self, connection: Placed) -> None:
        """It needs no place any more."""
        self._silent.pop(connection, None)
        self._answered.pop(connection, None)


def _room() -> int:
    """Slow clients that are dropped come again: it is cheaper to have them wait for their deadline, within bounds."""
    try:
        import resource  # noqa: PLC0415  # not on every platform
    except ImportError:
        return _MOST
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if allowed == resource.RLIM_INFINITY else max(16, min(_MOST, allowed // 2))


class Connection(H11Protocol):
    """One connection, which cannot be held open by sending or reading slowly.

    A stream of events may go on for ever, as long as each event is taken before its own deadline, and needs no place.

    Args:
        config: uvicorn's settings.
        state: What uvicorn shares among connections.
        places: The connections that are no streams.
        loop: The server's loop.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        places: Places,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, state, {}, loop)
        self._served_app: Any = self.app
        self.app = self._serve
        self._places = places
        self.logger = _QUIET
        self.access_logger = _QUIET
        self.access_log = False
        self._streaming = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Admit it, in another one's place where there are too many."""
        super().connection_made(transport)
        self._restart_deadline()
        self._places.take(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._places.leave(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        """Take the data in pieces: h11 measures a head only while it is incomplete."""
        for start in range(0, len(data), HEAD_BYTES):
            if not self.transport.is_closing():
                super().data_received(data[start : start + HEAD_BYTES])

    def on_response_complete(self) -> None:
        """Give the next request its own time."""
        self._restart_deadline()
        if self._streaming:
            self._streaming = False
            self._places.take(self)
        else:
            self._places.waits(self)
        super().on_response_complete()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application; a stream of events gets its deadline event by event."""

        async def send_within(message: Any) -> None:
            if message["type"] == "http.response.start":
                events = (b"content-type", b"text/event-stream") in message["headers"]
                self._streaming = events and scope["method"] == "GET"
                if self._streaming:
                    self._places.leave(self)
            if not self._streaming:
                await send(message)
                return
            self._restart_deadline()  # `send` waits for a reader that is behind
            await send(message)
            if self._streaming and self._deadline is not None:  # else the deadline is the next request's
                self._deadline.cancel()

        self._places.asked(self)
        await self._served_app(scope, receive, send_within)

    def _restart_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(EXCHANGE_S, self.transport.abort)

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


class Handshake(asyncio.Protocol):
    """What a connection is until both sides agree on TLS: it has a place already, as one that has not asked anything.

    Args:
        connection: What it is to become.
        places: The connections that are no streams.
        tls: The server's certificate.
        handshake_s: How long it may take, in seconds.
        shutdown_s: How long the end of the connection may take, in seconds.
    """

    def __init__(
        self, connection: Connection, places: Places, tls: ssl.SSLContext, handshake_s: float, shutdown_s: float
    ) -> None:
        self.transport: asyncio.Transport
        self._connection = connection
        self._places = places
        self._tls = tls
        self._handshake_s = handshake_s
        self._shutdown_s = shutdown_s
        self._early: list[bytes] = []
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, in a place of its own."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()  # the client may have begun already
        self._places.take(self)
        self._task = asyncio.get_running_loop().create_task(self._agree())

    def data_received(self, data: bytes) -> None:
        """Keep what came in one piece with the handshake's end."""
        self._early.append(data)

    async def _agree(self) -> None:
        loop, transport = asyncio.get_running_loop(), self.transport
        secure: asyncio.Transport | None = None
        try:
            with suppress(OSError):  # it came to nothing; so are an SSLError and a TimeoutError
                secure = await loop.start_tls(
                    transport,
                    self,
                    self._tls,
                    server_side=True,
                    ssl_handshake_timeout=self._handshake_s,
                    ssl_shutdown_timeout=self._shutdown_s,
                )
        finally:
            self._places.leave(self)
        if secure is None:
            return
        if transport.is_closing():  # another one has its place
            secure.abort()
            return
        secure.set_protocol(self._connection)
        self._connection.connection_made(secure)
        for data in self._early:
            self._connection.data_received(data)
