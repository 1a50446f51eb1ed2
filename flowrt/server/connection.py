"""One connection of the server: uvicorn's HTTP, with a deadline that no client can put off."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from flowrt.server.responses import Receive, Scope, Send

__all__ = ["CONNECTIONS", "HEAD_BYTES", "Config", "Connection"]

EXCHANGE_S: Final = 10.0  # a request and its response take no longer, or the connection is dropped
HEAD_BYTES: Final = 16_384
CONNECTIONS: Final = 128  # one more, and the oldest is dropped: idle ones cannot keep anybody out
_QUIET: Final = logging.Logger("flowrt.server.http", logging.CRITICAL + 1)  # outside the hierarchy: nobody hears it


class Config(uvicorn.Config):
    """uvicorn's settings; they leave the process's logging alone, which a uvicorn of the user's may share."""

    def configure_logging(self) -> None:
        """Do nothing."""


class Connection(H11Protocol):
    """One connection, which cannot be held open by sending or reading slowly.

    A stream of events may go on for ever, as long as each event is taken before its own deadline; streams do not count
    among those of which the oldest is dropped.

    Args:
        config: uvicorn's settings.
        state: What uvicorn shares among connections.
        newest_last: The connections that are no streams.
        loop: The server's loop.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        newest_last: dict[Connection, None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, state, {}, loop)
        self._served_app: Any = self.app
        self.app = self._serve
        self._all = newest_last
        self.logger = _QUIET
        self.access_logger = _QUIET
        self.access_log = False
        self._streaming = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Admit it, in the place of the oldest where there are too many."""
        super().connection_made(transport)
        self._restart_deadline()
        if len(self._all) >= CONNECTIONS:
            oldest = next(iter(self._all))
            del self._all[oldest]
            oldest.transport.abort()
        self._all[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._all.pop(self, None)
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
        super().on_response_complete()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application; a stream of events gets its deadline event by event."""

        async def send_within(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._streaming = (b"content-type", b"text/event-stream") in message["headers"]
                if self._streaming:
                    self._all.pop(self, None)
            if not self._streaming:
                await send(message)
                return
            self._restart_deadline()  # `send` waits for a reader that is behind
            await send(message)
            if self._deadline is not None:
                self._deadline.cancel()

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
