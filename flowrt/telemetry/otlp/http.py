"""OTLP over HTTP: sends requests over one keep-alive connection that another thread can abort."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import io
import math
import os
import select
import socket
import ssl
import time
import urllib.request
from collections.abc import Sequence
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from flowrt._version import __version__
from flowrt.errors import one_line
from flowrt.telemetry.otlp.config import ExportSettings
from flowrt.telemetry.otlp.transport import Outcome, fields, partial_success

__all__ = ["HttpTransport"]

_RETRYABLE: Final = frozenset({429, 502, 503, 504})  # the OTLP specification's list
_MAX_RESPONSE_BYTES: Final = 65_536
_MAX_SHOWN: Final = 200
_GZIP_LEVEL: Final = 1  # takes a third of the default level's time for a tenth more bytes


class HttpTransport:
    """Transport that posts requests to a collector.

    It does not follow redirects. It uses the proxy that the environment names, as urllib does.

    Args:
        settings: Endpoint, headers and certificates.

    Raises:
        ValueError: A certificate cannot be read.
    """

    def __init__(self, settings: ExportSettings) -> None:
        self.timeout_s = settings.timeout_s
        self.where = settings.where
        self._url = settings.url
        self._gzip = settings.compression == "gzip"
        self._headers = {
            "User-Agent": f"flowrt/{__version__}",
            **settings.headers,
            "Content-Type": "application/x-protobuf",
            **({"Content-Encoding": "gzip"} if self._gzip else {}),
        }
        self._tls = _tls(settings) if self._url.scheme == "https" else None
        self._target = f"{self._url.path or '/'}{'?' if self._url.query else ''}{self._url.query}"
        self._proxy = _proxy(self._url)
        if self._proxy is not None and self._tls is None:  # over TLS the proxy gets a CONNECT instead
            self._target = f"http://{self._url.netloc}{self._target}"
            self._headers.update(_proxy_authorization(self._proxy))
        self._connection: http.client.HTTPConnection | None = None
        self._of_parents: list[http.client.HTTPConnection] = []

    def pack(self, payloads: Sequence[bytes]) -> Sequence[bytes]:
        """Compress the payloads if the settings ask for it. Else they are sent as they are, which spares a copy."""
        return (gzip.compress(b"".join(payloads), _GZIP_LEVEL, mtime=0),) if self._gzip else payloads

    def send(self, body: Sequence[bytes]) -> Outcome:
        """Send one request."""
        try:
            status, headers, answer = self._exchange(body)
        except (OSError, http.client.HTTPException) as exc:
            self.close()
            return Outcome(False, retry=True, kind=type(exc).__name__, detail=_error_text(exc))
        if 200 <= status < 300:
            rejected, message = partial_success(answer)
            kind = "partial success" if rejected or message else ""
            return Outcome(True, rejected=rejected, kind=kind, detail=_shown(message))
        kind = f"HTTP {status}"
        if 300 <= status < 400:
            return Outcome(
                False, kind=kind, detail=f"{kind}: flowrt follows no redirects; set the endpoint to the final URL"
            )
        detail = f"{kind} {_message(headers, answer)}".rstrip()
        if status in _RETRYABLE:
            return Outcome(False, retry=True, after_s=_retry_after_s(headers), kind=kind, detail=detail)
        return Outcome(False, kind=kind, detail=detail)

    def abort(self) -> None:
        """Shut the connection down, so that a blocked `send` returns with an error."""
        connection = self._connection
        sock = None if connection is None else connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()

    def forget(self) -> None:
        """In a forked child, drop the parent's connection without sending anything on it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Keep the object, so that it is never closed: the parent's thread may hold its buffered reader's lock.
            self._of_parents.append(connection)
            sock = connection.sock
            if sock is not None:
                with contextlib.suppress(OSError):
                    os.close(sock.detach())

    # -- within -----------------------------------------------------------------------------------------------------

    def _exchange(self, body: Sequence[bytes]) -> tuple[int, Message, bytes]:
        connection = self._connection
        if connection is None or connection.sock is None or _readable(connection.sock):  # the collector closed it
            self.close()
            connection = self._connection = self._new_connection()
        try:
            headers = {**self._headers, "Content-Length": str(sum(map(len, body)))}
            connection.request("POST", self._target, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:  # the connection attempt failed
                raise
            # The collector stopped reading; its response may say why.
        response = connection.getresponse()
        answer = b""
        try:
            answer = response.read(_MAX_RESPONSE_BYTES)
        except (OSError, http.client.HTTPException):  # the status has arrived, and is valid without the body
            self.close()
        if not response.isclosed():  # the body exceeds the limit
            self.close()
        return response.status, response.headers, answer

    def _new_connection(self) -> http.client.HTTPConnection:
        host, port = _host_and_port(self._proxy or self._url)
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(host, port, timeout=self.timeout_s)
        else:
            connection = http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=self._tls)
            if self._proxy is not None:
                connection.set_tunnel(*_host_and_port(self._url), headers=_proxy_authorization(self._proxy))
        connection.response_class = _Response
        return connection


class _Response(http.client.HTTPResponse):
    """Response that raises if its status line or headers are cut short; the standard library accepts those."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = _WholeLines(self.fp.detach())


class _WholeLines(io.BufferedReader):
    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and (size is None or not 0 <= size <= len(line)):
            raise http.client.IncompleteRead(line)
        return line


def _tls(settings: ExportSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.certificate or _certificates())
    except (ssl.SSLError, OSError) as exc:
        raise ValueError(f"the certificate {settings.certificate!r} cannot be read: {exc}") from None
    if settings.client_certificate is not None:
        try:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
        except (ssl.SSLError, OSError) as exc:
            files = f"{settings.client_certificate!r} and {settings.client_key!r}"
            raise ValueError(f"the client certificate and key, {files}, cannot be used: {exc}") from None
    return context


def _certificates() -> str | None:
    """Path of certifi's certificates if the system has none and certifi is installed; else None."""
    paths = ssl.get_default_verify_paths()
    if not (paths.cafile or paths.capath):
        with contextlib.suppress(ImportError):
            import certifi  # noqa: PLC0415  # optional, though often installed

            return certifi.where()
    return None


def _proxy(url: SplitResult) -> SplitResult | None:
    """HTTP proxy that the environment names for a URL, or None."""
    proxy = urllib.request.getproxies().get(url.scheme)
    if not proxy or urllib.request.proxy_bypass(url.netloc):
        return None
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts if parts.scheme == "http" and parts.hostname else None


def _proxy_authorization(proxy: SplitResult) -> dict[str, str]:
    user, at, _ = proxy.netloc.rpartition("@")
    return {"Proxy-Authorization": f"Basic {base64.b64encode(unquote(user).encode()).decode()}"} if at else {}


def _host_and_port(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _readable(sock: socket.socket) -> bool:
    """True if an idle connection is readable, which means that the other end closed it."""
    try:
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([sock], [], [], 0)[0])
    except (OSError, ValueError):
        return True


def _retry_after_s(headers: Message) -> float:
    """Delay of a `Retry-After` header (seconds or a date), in seconds; 0 if it is missing or invalid."""
    text = (headers.get("Retry-After") or "").strip()
    try:
        after_s = float(text)
    except ValueError:
        try:
            after_s = parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return max(0.0, after_s) if math.isfinite(after_s) else 0.0


def _message(headers: Message, answer: bytes) -> str:
    """Message of an error response: from a google.rpc.Status, or the body's text."""
    if "protobuf" in (headers.get("Content-Type") or ""):
        try:
            found = dict(fields(answer)).get(2, b"")
            return _shown(found.decode(errors="replace") if isinstance(found, bytes) else "")
        except ValueError:
            pass
    return _shown(answer.decode(errors="replace"))


def _shown(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _error_text(exc: Exception) -> str:
    return _shown(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)
