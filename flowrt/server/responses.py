"""ASGI responses, with the security headers that all of them carry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

__all__ = [
    "SAFE_HEADERS",
    "ASGIApp",
    "Headers",
    "Receive",
    "Response",
    "Scope",
    "Send",
    "answer",
    "header_values",
    "text",
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = list[tuple[bytes, bytes]]
Response = tuple[int, Headers, bytes]

SAFE_HEADERS: Final[Headers] = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]


def header_values(scope: Scope, name: bytes) -> list[str]:
    """Return all values of a request header, in order.

    Args:
        scope: The scope of the request.
        name: Name of the header in lower case.
    """
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def text(status: int, message: str, *headers: tuple[bytes, bytes]) -> Response:
    """Return a response with one line of plain text.

    Args:
        status: The status code.
        message: The line.
        headers: Additional headers.
    """
    return status, [(b"content-type", b"text/plain; charset=utf-8"), *headers], f"{message}\n".encode()


async def answer(scope: Scope, send: Send, response: Response) -> None:
    """Send a whole response, or its headers alone if the method is HEAD."""
    status, headers, body = response
    headers = [*headers, (b"content-length", str(len(body)).encode()), *SAFE_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
