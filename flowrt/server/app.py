"""The endpoints as one ASGI application, on its own or mounted in a service."""

from __future__ import annotations

import asyncio
import gzip
import hmac
import logging
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs

from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector, CollectorRegistry

from flowrt.telemetry.collector import register

__all__ = ["READINESS", "ASGIApp", "Readiness", "asgi_app", "guarded"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = list[tuple[bytes, bytes]]
Response = tuple[int, Headers, bytes]

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_PLAIN: Final = b"text/plain; charset=utf-8"

_log = logging.getLogger("flowrt.server")


class Readiness:
    """Whether this process takes new work, as `/readyz` tells it.

    Attributes:
        draining: Why not, or None while it does.
    """

    __slots__ = ("draining",)

    def __init__(self) -> None:
        self.draining: str | None = None


READINESS: Final = Readiness()
"""The process's own; a `Runtime` that shuts down sets it, whoever serves `/readyz`."""


def asgi_app(registry: CollectorRegistry = REGISTRY) -> ASGIApp:
    """The endpoints `/metrics`, `/healthz` and `/readyz` as an ASGI application.

    Args:
        registry: What `/metrics` renders.

    Returns:
        An application to mount in a service of your own, which then answers for who may reach it.

    Example:
        >>> from fastapi import FastAPI
        >>> import flowrt
        >>> app = FastAPI()
        >>> app.mount("/telemetry", flowrt.asgi_app())
    """
    register()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _send(scope, send, await _answer(scope, registry))
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    return app


def guarded(app: ASGIApp, token: str | None = None) -> ASGIApp:
    """The application behind the checks of a server that nothing else protects.

    A web page cannot read it: a name that was rebound to 127.0.0.1 is answered 421, another origin 403.

    Args:
        app: Reached by requests that pass.
        token: When given, requests must bring it as `Authorization: Bearer ...` (401) and may use any host name.
    """
    expected = None if token is None else f"Bearer {token}".encode()

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(dict(scope["headers"]), expected) if scope["type"] == "http" else None
        if refusal is None:
            await app(scope, receive, send)
        else:
            await _send(scope, send, refusal)

    return guard


def _refusal(headers: dict[bytes, bytes], expected: bytes | None) -> Response | None:
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit():
        name = host
    if expected is None and name not in _LOOPBACK:
        return _text(421, "this server answers to 127.0.0.1, localhost and [::1] only")
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() not in (f"http://{host}", f"https://{host}"):
        return _text(403, "requests from other origins are refused")
    if expected is not None and not hmac.compare_digest(headers.get(b"authorization", b""), expected):
        return _text(401, "a bearer token is needed", (b"www-authenticate", b"Bearer"))
    return None


async def _answer(scope: Scope, registry: CollectorRegistry) -> Response:
    path = _route_path(scope)
    if path not in ("/metrics", "/healthz", "/readyz"):
        return _text(404, "not found: there are /metrics, /healthz and /readyz")
    if scope["method"] not in ("GET", "HEAD"):
        return _text(405, "only GET and HEAD", (b"allow", b"GET, HEAD"))
    if path == "/healthz":
        return _text(200, "ok")
    if path == "/readyz":
        return _text(200, "ok") if READINESS.draining is None else _text(503, READINESS.draining)
    headers = dict(scope["headers"])
    accept = headers.get(b"accept", b"").decode("latin-1")
    encoding = headers.get(b"accept-encoding", b"").decode("latin-1")
    names = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("name[]", [])
    try:
        return await _off_loop(lambda: _render(registry, accept, encoding, names))
    except Exception as exc:  # somebody's collector: the page must say so, the service goes on
        _log.warning("/metrics cannot be rendered", exc_info=True)
        return _text(500, f"the metrics cannot be rendered: a collector raised {type(exc).__name__}")


def _route_path(scope: Scope) -> str:
    """The path below the prefix that the application is mounted at, if any."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    # Behind a proxy that strips its own prefix, root_path holds that prefix and the path does not.
    mounted = root.removeprefix(scope.get("app_root_path", "").rstrip("/"))
    for prefix in (root, mounted):
        if prefix and path.startswith(f"{prefix}/"):
            return path[len(prefix) :]
    return path


def _render(registry: CollectorRegistry, accept: str, encoding: str, names: list[str]) -> Response:
    encoder, content_type = choose_encoder(accept)
    source: Collector = registry.restricted_registry(names) if names else registry
    body = encoder(source)
    headers = [(b"content-type", content_type.encode("latin-1")), (b"vary", b"accept, accept-encoding")]
    if gzip_accepted(encoding):
        body = gzip.compress(body, 6)
        headers.append((b"content-encoding", b"gzip"))
    return 200, headers, body


async def _off_loop(work: Callable[[], Response]) -> Response:
    """Run in a thread of its own: a service's own thread pool may be busy, and a pool would delay exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Response] = loop.create_future()

    def finish(response: Response | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        elif response is not None:
            done.set_result(response)

    def run() -> None:
        response, error = None, None
        try:
            response = work()
        except Exception as exc:  # raised again where it is awaited
            error = exc
        with suppress(RuntimeError):  # the loop has been closed: nobody waits
            loop.call_soon_threadsafe(finish, response, error)

    threading.Thread(target=run, name="flowrt-scrape", daemon=True).start()
    return await done


def _text(status: int, text: str, *headers: tuple[bytes, bytes]) -> Response:
    return status, [(b"content-type", _PLAIN), *headers], f"{text}\n".encode()


async def _send(scope: Scope, send: Send, response: Response) -> None:
    status, headers, body = response
    length = str(len(body)).encode()
    headers = [*headers, (b"content-length", length), (b"cache-control", b"no-store"), _NOSNIFF]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
