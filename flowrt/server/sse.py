"""The live page's server-sent events: the past at once, then what is new, as fast as the reader takes it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from flowrt._util.daemon_thread import off_loop
from flowrt.server.responses import SAFE_HEADERS, Receive, Response, Send, text
from flowrt.telemetry.live import LiveStore

__all__ = ["Events"]

_MOST_STREAMS: Final = 32
_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
    *SAFE_HEADERS,
]


class Events:
    """Streams of one application.

    A reader that is slow misses frames and is sent the next one there is, so nothing piles up for it.

    Args:
        store: Where the frames come from.
    """

    def __init__(self, store: LiveStore) -> None:
        self._store = store
        self._streams: set[asyncio.Event] = set()
        self._ending = False

    def end(self) -> None:
        """End every stream; to be called on the loop that serves them."""
        self._ending = True
        for fresh in self._streams:
            fresh.set()

    async def serve(self, receive: Receive, send: Send) -> Response | None:
        """Send events until the reader is gone.

        Returns:
            What to answer instead where there are too many streams, or None.
        """
        if len(self._streams) >= _MOST_STREAMS:
            return text(503, f"{_MOST_STREAMS} pages are open: close one", (b"retry-after", b"10"))
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
            with suppress(RuntimeError):  # the loop has been closed: nobody reads
                loop.call_soon_threadsafe(fresh.set)

        async def wait_for_end() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            fresh.set()

        gone = asyncio.create_task(wait_for_end())
        end = self._store.watch(wake)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            past = await off_loop(self._store.snapshot)
            await send(_event(b"retry: 2000\nevent: snapshot\ndata: " + past))
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
