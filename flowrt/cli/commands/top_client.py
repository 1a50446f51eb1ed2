"""HTTP client of `flowrt top`: reads the live page's JSON over one kept-alive connection."""

from __future__ import annotations

import http.client
import json
import ssl
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Self
from urllib.parse import urlsplit

from flowrt._util.trace_url import check_trace_url

__all__ = ["Answer", "Source"]

_TIMEOUT_S: Final = 5.0
_MOST_BYTES: Final = 32_000_000
_PORT: Final = 9464


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of the server to one request.

    Attributes:
        state: The server's state, or None.
        problem: Why `state` is None.
        refused: True if a retry cannot succeed.
        trace_url: Template of links to traces, or None.
    """

    state: dict[str, Any] | None = None
    problem: str | None = None
    refused: bool = False
    trace_url: str | None = None


class Source:
    """Client for one server, which may go down and come back.

    Args:
        url: URL of the server, with the path at which it is mounted; `http://` and port 9464 are the defaults.
        token: Bearer token, or None.
        cacert: File of trusted certificates (PEM), or None for the system's.

    Raises:
        ValueError: The URL is invalid, or `cacert` cannot be read.
    """

    def __init__(self, url: str, *, token: str | None = None, cacert: str | None = None) -> None:
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError as exc:
            raise ValueError(f"{url!r} is not a URL: {exc}; pass for example http://127.0.0.1:9464") from exc
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError(f"{url!r} is not an http or https URL: pass for example http://127.0.0.1:9464")
        self._host, self._tls = host, parts.scheme == "https"
        self._port = port or _PORT
        self._root = parts.path.rstrip("/").removesuffix("/metrics")
        self._context = _tls_context(cacert) if self._tls else None
        self._headers = {"accept": "application/json"}
        if token:
            if not token.isascii() or not token.isprintable():
                raise ValueError("the token holds characters that are invalid in a header")
            self._headers["authorization"] = f"Bearer {token}"
        self._connection: http.client.HTTPConnection | None = None
        self._trace_url: str | None = None
        self._configured = False
        name = f"[{host}]" if ":" in host else host
        self.shown_url = f"{parts.scheme}://{name}:{self._port}{self._root}"

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._drop()

    def ask(self) -> Answer:
        """Request the state once. A failure is returned as an answer with its problem."""
        fresh = self._connection is None
        try:
            return self._ask()
        except (OSError, http.client.HTTPException) as exc:
            self._drop()
            if not fresh and isinstance(exc, (ConnectionError, http.client.HTTPException)):
                return self.ask()  # the server had closed the kept-alive connection
            return Answer(problem=_reason(exc), refused=isinstance(exc, ssl.SSLCertVerificationError))

    def _get(self, path: str) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = (
                http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
                if self._context is None
                else http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=self._context)
            )
        self._connection.request("GET", f"{self._root}{path}", headers=self._headers)
        with self._connection.getresponse() as response:
            return response.status, response.read(_MOST_BYTES)

    def _ask(self) -> Answer:
        status, body = self._get("/live/state")
        if status == 200:
            answer = self._parse(body)
            return answer if answer.state is None else replace(answer, trace_url=self._find_trace_url())
        self._drop()
        if status == 401:
            sent = "authorization" in self._headers
            problem = (
                "the token is wrong"
                if sent
                else "the server requires a token: set FLOWRT_METRICS_TOKEN or pass --token"
            )
            return Answer(problem=problem, refused=True)
        problem = f"the server answered {status}: {body[:200].decode('utf-8', 'replace').strip()}"
        return Answer(problem=problem, refused=status in (403, 404, 405, 421))

    def _find_trace_url(self) -> str | None:
        """Return the server's template of links to traces; it is requested once."""
        if not self._configured:
            self._configured = True
            status, body = self._get("/live/config")
            with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
                self._trace_url = check_trace_url(json.loads(body)["trace_url"]) if status == 200 else None
        return self._trace_url

    def _parse(self, body: bytes) -> Answer:
        try:
            state = json.loads(body)
            if isinstance(state["process"], dict) and isinstance(state["batches"], list):
                return Answer(state)
        except (ValueError, LookupError, TypeError, RecursionError):
            self._drop()
        return Answer(problem="the server is not a flowrt process", refused=True)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _tls_context(cacert: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cacert)
    except OSError as exc:
        raise ValueError(f"the certificates in {cacert!r} cannot be used: {exc.strerror or exc}") from exc


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {exc.verify_message}; pass --cacert"
    if isinstance(exc, TimeoutError):
        return f"no answer within {_TIMEOUT_S:g} s"
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
