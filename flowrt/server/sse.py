"""Server-sent events of the live page: one snapshot with the history, then a state per sample."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from flowrt._util.daemon_thread import run_in_daemon_thread
from flowrt.server.responses import SAFE_HEADERS, Receive, Response, Send, text
from flowrt.telemetry.live import LiveStore

__all__ = ["Events"]

_MAX_STREAMS: Final = 32
_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),  # nginx would buffer the events
    *SAFE_HEADERS,
]


class Events:
    """Event streams of one application.

    A slow client skips frames and gets the latest one, so no queue builds up for it.

    Args:
        store: The source of the frames.
    """

    def __init__(self, store: LiveStore) -> None:
        self._store = store
        self._streams: set[asyncio.Event] = set()
        self._ending = False

    def end(self) -> None:
        """End every stream. Call it on the loop that serves them."""
        self._ending = True
        for fresh in self._streams:
            fresh.set()

    async def serve(self, receive: Receive, send: Send) -> Response | None:
        """Send events until the client disconnects.

        Returns:
            None after a stream; the response to send instead if too many streams are open.
        """
        if len(self._streams) >= _MAX_STREAMS:
            return text(503, f"{_MAX_STREAMS} pages are open, which is the limit: close one", (b"retry-after", b"10"))
        fresh = asyncio.Event()
        self._streams.add(fresh)
        try:
            await self._stream(fresh, receive, send)
        finally:
            self._streams.discard(fresh)
        return None

    async def _stream(self, fresh: asyncio.Event, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed, and its clients are gone
                loop.call_soon_threadsafe(fresh.set)

        async def wait_for_end() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            fresh.set()

        gone = asyncio.create_task(wait_for_end())
        end = self._store.watch(wake)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            snapshot = await run_in_daemon_thread(asyncio.get_running_loop(), self._store.snapshot, "flowrt-scrape")
            await send(_event(b"retry: 2000\nevent: snapshot\ndata: " + snapshot))
            while not (gone.done() or self._ending):
                await fresh.wait()
                fresh.clear()
                if not gone.done():
                    await send(_event(b"event: state\ndata: " + self._store.frame))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            end()
            gone.cancel()
            await asyncio.wait([gone])


def _event(lines: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": lines + b"\n\n", "more_body": True}
