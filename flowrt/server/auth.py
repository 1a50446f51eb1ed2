"""Access checks of the telemetry server: host, origin and token."""

from __future__ import annotations

import base64
import hmac
from typing import Final

from flowrt.server.responses import ASGIApp, Receive, Response, Scope, Send, answer, header_values, text

__all__ = ["check_token", "guarded"]

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_CHALLENGES: Final = ((b"www-authenticate", b'Basic realm="flowrt", charset="UTF-8"'), (b"www-authenticate", b"Bearer"))


def check_token(token: str | None) -> None:
    """Check that requests can carry the token.

    Args:
        token: The token, or None for no access check.

    Raises:
        ValueError: The token is empty, or has white space around it, which HTTP headers drop.
    """
    if token is not None and (not token or token != token.strip()):
        raise ValueError(
            "the metrics token is empty or has white space around it: give a token of visible characters, for "
            "instance from `openssl rand -hex 16`, or None for access from this machine only"
        )


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
        refusal = _refusal(scope, expected)
        if refusal is None:
            await app(scope, receive, send)
        elif kind == "http":
            await answer(scope, send, refusal)
        else:
            await send({"type": "websocket.close", "code": 1008})

    return guard


def _refusal(scope: Scope, expected: bytes | None) -> Response | None:
    """Return the response to a request that fails a check. If a header is repeated, every value must pass."""
    hosts = [host.lower() for host in header_values(scope, b"host")] or [""]
    if expected is None and not all(_host_name(host) in _LOOPBACK for host in hosts):
        return text(421, "this server answers to 127.0.0.1, localhost and [::1] only")
    own = {f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts}
    if not own.issuperset(origin.lower() for origin in header_values(scope, b"origin")):
        return text(403, "requests from other origins are refused")
    if expected is not None:
        tokens = [_token_in(value) for value in header_values(scope, b"authorization")] or [b""]
        if not all(hmac.compare_digest(token, expected) for token in tokens):
            return text(401, "a token is needed, as a bearer token or as the password of any user", *_CHALLENGES)
    return None


def _host_name(host: str) -> str:
    """Return the host without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _token_in(authorization: str) -> bytes:
    """Return the token in the value of an Authorization header, or an empty string."""
    scheme, _, credentials = authorization.strip().partition(" ")
    credentials = credentials.strip()
    if scheme.lower() == "bearer":
        return credentials.encode("latin-1")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except ValueError:  # not base64; binascii.Error is a ValueError
            return b""
    return b""
