"""Access checks of the telemetry server: host, origin and token."""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final

from flowrt.server.responses import ASGIApp, Receive, Response, Scope, Send, answer, text

__all__ = ["guarded"]

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_CHALLENGES: Final = ((b"www-authenticate", b'Basic realm="flowrt", charset="UTF-8"'), (b"www-authenticate", b"Bearer"))


def guarded(app: ASGIApp, token: str | None = None) -> ASGIApp:
    """Return the application behind access checks.

    The checks keep foreign web pages out: a host name that was rebound to 127.0.0.1 gets 421, a foreign origin 403.
    They run before the application, so they hold for every route and method.

    Args:
        app: The application that receives requests which pass.
        token: When given, requests need it (else 401) as `Authorization: Bearer ...` or, as browsers send it, as the
            password of basic authentication with any user name. Any host name is then accepted.
    """
    expected = None if token is None else token.encode()

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refusal = _refusal(headers, expected)
        if refusal is None:
            await app(scope, receive, send)
        elif kind == "http":
            await answer(scope, send, refusal)
        else:
            await send({"type": "websocket.close", "code": 1008})

    return guard


def _refusal(headers: dict[bytes, bytes], expected: bytes | None) -> Response | None:
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit():
        name = host
    if expected is None and name not in _LOOPBACK:
        return text(421, "this server answers to 127.0.0.1, localhost and [::1] only")
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() not in (f"http://{host}", f"https://{host}"):
        return text(403, "requests from other origins are refused")
    if expected is not None and not hmac.compare_digest(_token_in(headers.get(b"authorization", b"")), expected):
        return text(401, "a token is needed, as a bearer token or as the password of any user", *_CHALLENGES)
    return None


def _token_in(authorization: bytes) -> bytes:
    """Return the token in an Authorization header, or an empty string."""
    scheme, _, credentials = authorization.strip().partition(b" ")
    credentials = credentials.strip()
    if scheme.lower() == b"bearer":
        return credentials
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""
