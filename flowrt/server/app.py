"""ASGI application with the endpoints, to serve alone or to mount in a service."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import weakref
from typing import Final
from urllib.parse import parse_qs

from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from flowrt._util.daemon_thread import run_in_daemon_thread
from flowrt._util.trace_url import check_trace_url
from flowrt.server.control import ACTIONS, control, control_path
from flowrt.server.responses import ASGIApp, Receive, Response, Scope, Send, answer, header_values, text
from flowrt.server.sse import Events
from flowrt.server.static_files import FILES, page_file
from flowrt.telemetry.live import LIVE
from flowrt.telemetry.metrics.collector import register
from flowrt.telemetry.metrics.exposition import render

__all__ = ["READINESS", "Readiness", "TelemetryApp", "asgi_app"]

_THREAD: Final = "flowrt-scrape"
_MAX_RENDERS: Final = 4  # concurrent; each occupies a thread, so further requests wait
_GZIP_LEVEL: Final = 1  # the fastest: metrics repeat themselves and compress well, and CPU time is what a scrape costs

_log = logging.getLogger("flowrt.server")


class Readiness:
    """Readiness of the process, as `/readyz` reports it.

    Attributes:
        draining: The reason why the process takes no new work, or None while it does.
    """

    __slots__ = ("draining",)

    def __init__(self) -> None:
        self.draining: str | None = None


READINESS: Final = Readiness()
"""Readiness of this process. A `Runtime` that shuts down sets it for every application that serves `/readyz`."""


def asgi_app(
    registry: CollectorRegistry = REGISTRY, *, trace_url: str | None = None, live_control: bool = False
) -> ASGIApp:
    """Return an ASGI application with the live page at `/`, `/metrics`, `/healthz` and `/readyz`.

    Args:
        registry: The registry that `/metrics` renders.
        trace_url: URL of a trace in your tracing UI, with `{trace_id}` in place of its id. Trace ids on the page
            become links.
        live_control: True to let the page pause, drain and cancel batches. Enable it only if your service restricts
            access to the application.

    Returns:
        An application to mount in your own service. The service then controls access to it.

    Raises:
        ValueError: `trace_url` is not an http or https URL with `{trace_id}`.

    Example:
        >>> from fastapi import FastAPI
        >>> import flowrt
        >>> app = FastAPI()
        >>> app.mount("/telemetry", flowrt.asgi_app())
    """
    return TelemetryApp(registry, trace_url=trace_url, live_control=live_control)


class TelemetryApp:
    """ASGI application that `asgi_app` returns. The process collects data for its page as long as it exists.

    Args:
        registry: The registry that `/metrics` renders.
        trace_url: URL of a trace, with `{trace_id}` in place of its id, or None.
        live_control: True to accept POST requests that pause, resume, drain or cancel a batch.

    Raises:
        ValueError: `trace_url` is not an http or https URL with `{trace_id}`.
    """

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, *, trace_url: str | None = None, live_control: bool = False
    ) -> None:
        self._live_control = live_control
        config = {"trace_url": check_trace_url(trace_url), "controls": list(ACTIONS) if live_control else []}
        self._config = json.dumps(config).encode()
        register()
        self._registry = registry
        self._events = Events(LIVE)
        self._renders = asyncio.Semaphore(_MAX_RENDERS)
        LIVE.open()
        self._close = weakref.finalize(self, LIVE.close)
        self._close.atexit = False

    def close(self) -> None:
        """Stop collecting data for the page. Later calls do nothing."""
        if self._close.detach() is not None:
            LIVE.close(wait=True)

    def end_streams(self) -> None:
        """End all event streams. Call it on the loop that serves them."""
        self._events.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the messages of the lifespan protocol."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _route_path(scope)
        controlled = control_path(path)
        if controlled is not None:
            if self._live_control and scope["method"] == "POST":
                response = control(scope, *controlled)
            else:
                response = text(405, *_not_allowed("POST" if self._live_control else ""))
        elif path not in _PATHS:
            response = text(404, "not found: there are /, /metrics, /healthz and /readyz")
        elif scope["method"] not in ("GET", "HEAD"):
            response = text(405, *_not_allowed("GET, HEAD"))
        elif path == "/live/events" and scope["method"] == "GET":
            refusal = await self._events.serve(receive, send)
            if refusal is None:
                return
            response = refusal
        else:
            response = await self._answer(path, scope)
        await answer(scope, send, response)

    async def _answer(self, path: str, scope: Scope) -> Response:
        if path == "/healthz":
            return text(200, "ok")
        if path == "/readyz":
            return text(200, "ok") if READINESS.draining is None else text(503, READINESS.draining)
        if path in FILES:
            return page_file(path)
        if path == "/live/config":
            return 200, [(b"content-type", b"application/json")], self._config
        if path == "/live/events":  # HEAD: a GET was served as a stream
            return 200, [(b"content-type", b"text/event-stream")], b""
        loop = asyncio.get_running_loop()
        if path == "/live/state":
            async with self._renders:
                state = await run_in_daemon_thread(loop, LIVE.snapshot, _THREAD)
                return 200, [(b"content-type", b"application/json")], state
        formats = ",".join(_accepted(scope, b"accept"))
        compress = any(coding.partition(";")[0].strip() == "gzip" for coding in _accepted(scope, b"accept-encoding"))
        names = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("name[]", [])
        try:
            async with self._renders:
                return await run_in_daemon_thread(
                    loop, lambda: _render(self._registry, formats, names, compress=compress), _THREAD
                )
        except Exception as exc:  # a user's collector can raise anything; the service must go on
            _log.warning("/metrics cannot be rendered", exc_info=True)
            return text(500, f"the metrics cannot be rendered: a collector raised {type(exc).__name__}")


_PATHS: Final = frozenset({"/metrics", "/healthz", "/readyz", "/live/config", "/live/state", "/live/events", *FILES})


def _not_allowed(methods: str) -> tuple[str, tuple[bytes, bytes]]:
    """Return message and Allow header of a 405 response."""
    message = f"allowed: {methods}" if methods else "no method is allowed here: live_control is off"
    return message, (b"allow", methods.encode())


def _route_path(scope: Scope) -> str:
    """Return the path below the prefix at which the application is mounted, if any."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    # Behind a proxy that strips its own prefix, root_path holds that prefix and the path does not.
    mounted = root.removeprefix(scope.get("app_root_path", "").rstrip("/"))
    for prefix in (root, mounted):
        if prefix and path.startswith(f"{prefix}/"):
            return path[len(prefix) :]
    return path


def _accepted(scope: Scope, name: bytes) -> list[str]:
    """Return the elements of an Accept or Accept-Encoding header in lower case, without those that `q=0` refuses.

    prometheus_client ignores `q`, so its own functions would send a refused format.
    """
    elements = ",".join(header_values(scope, name)).lower().split(",")
    return [element.strip() for element in elements if _weight(element) > 0]


def _weight(element: str) -> float:
    """Return the `q` of a header element: 1 if it has none, 0 if it is invalid."""
    for parameter in element.split(";")[1:]:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _render(registry: CollectorRegistry, formats: str, names: list[str], *, compress: bool) -> Response:
    encoder, content_type = choose_encoder(formats)
    body = encoder(registry.restricted_registry(names)) if names else render(registry, encoder)
    headers = [(b"content-type", content_type.encode("latin-1")), (b"vary", b"accept, accept-encoding")]
    if compress:
        body = gzip.compress(body, _GZIP_LEVEL)
        headers.append((b"content-encoding", b"gzip"))
    return 200, headers, body


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
