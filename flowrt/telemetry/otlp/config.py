"""Export settings, read from arguments and the standard `OTEL_EXPORTER_OTLP_*` variables. Arguments win."""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast, get_args
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from flowrt._util.validation import check_number

__all__ = ["Compression", "ExportSettings", "WireProtocol", "loggable", "read_settings", "wire_protocol"]

WireProtocol = Literal["http/protobuf", "grpc"]
Compression = Literal["none", "gzip"]

_TRACES_PATH: Final = "/v1/traces"
_DEFAULT_ENDPOINTS: Final = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
_DEFAULT_TIMEOUT_S: Final = 10.0
_MILLISECONDS_FROM: Final = 1_000.0  # a timeout of 17 minutes for one request must have been meant as milliseconds
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_log = logging.getLogger("flowrt.export")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """Settings of the span export, validated at construction.

    Args:
        endpoint: URL that spans are posted to, including the path; with gRPC, the collector's URL. A user and a
            password in it become an `Authorization` header.
        protocol: `http/protobuf` or `grpc`.
        headers: Headers of every request. They may hold secrets, so they appear neither in `repr` nor in logs.
        timeout_s: Longest time of one request, in seconds.
        compression: `none` or `gzip`.
        certificate: PEM file with the certificates to trust instead of the system's.
        client_certificate: PEM file with this client's certificate.
        client_key: PEM file with the key of the client's certificate.
        insecure: Use no TLS with gRPC if the endpoint has no scheme.

    Raises:
        ValueError: A setting is not usable; the message names the setting and the reason.
    """

    endpoint: str
    protocol: WireProtocol = "http/protobuf"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = _DEFAULT_TIMEOUT_S
    compression: Compression = "none"
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in get_args(WireProtocol):
            raise ValueError(f"protocol must be 'http/protobuf' or 'grpc', not {self.protocol!r}")
        if self.compression not in get_args(Compression):
            raise ValueError(f"compression must be 'none' or 'gzip', not {self.compression!r}")
        check_number("timeout_s", self.timeout_s, above=True, unit="of seconds")
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ValueError(
                    f"the header {name!r} cannot be sent: its name or its value has characters that HTTP does not allow"
                )
        for setting in ("certificate", "client_certificate", "client_key"):
            path = getattr(self, setting)
            if path is not None and not Path(path).is_file():
                raise ValueError(f"{setting} must name a PEM file; there is no file {path!r}")
        if self.client_key is not None and self.client_certificate is None:
            raise ValueError("client_key needs client_certificate: pass the certificate that the key belongs to")
        self._move_user_into_headers(self._checked_url())

    @property
    def url(self) -> SplitResult:
        """The endpoint, parsed. With gRPC, a missing scheme is filled in: `http` if insecure, else `https`."""
        if "://" not in self.endpoint:
            return urlsplit(f"{'http' if self.insecure else 'https'}://{self.endpoint}")
        return urlsplit(self.endpoint)

    @property
    def where(self) -> str:
        """The endpoint without its query, for logs."""
        url = self.url
        return urlunsplit((url.scheme, url.netloc, url.path, "", ""))

    def _checked_url(self) -> SplitResult:
        bare = self.protocol == "grpc" and "://" not in self.endpoint
        try:
            url = self.url
            usable = (bare or "://" in self.endpoint) and url.scheme in ("http", "https") and bool(url.hostname)
            _ = url.port  # raises if the port is not a number in range
        except ValueError:
            usable = False
        if not usable:
            example = "http://127.0.0.1:4317" if self.protocol == "grpc" else "http://127.0.0.1:4318"
            raise ValueError(
                f"the OTLP endpoint must be the collector's http or https URL, for instance {example}, "
                f"not {loggable(self.endpoint)!r}"
            )
        return url

    def _move_user_into_headers(self, url: SplitResult) -> None:
        user, at, host = url.netloc.rpartition("@")
        if not at:
            return
        token = base64.b64encode(unquote(user).encode()).decode()
        named = {name.lower() for name in self.headers}
        headers = (
            dict(self.headers) if "authorization" in named else {**self.headers, "Authorization": f"Basic {token}"}
        )
        object.__setattr__(self, "headers", headers)
        object.__setattr__(self, "endpoint", urlunsplit(url._replace(netloc=host)))


def loggable(endpoint: object) -> str:
    """Redact an endpoint for logs: user, password, query and fragment may be secret.

    Args:
        endpoint: The value that was passed, valid or not.
    """
    text = str(endpoint)
    scheme, slashes, rest = text.partition("://") if "://" in text else ("", "", text)
    bare, *more = re.split(r"[?#]", rest, maxsplit=1)
    shown = "..." if more and "@" in more[0] else bare.rpartition("@")[2]  # the `?` may be part of the password
    return f"{scheme}{slashes}{shown}"


def read_settings(
    endpoint: str | None = None,
    *,
    protocol: WireProtocol | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    compression: Compression | None = None,
    certificate: str | None = None,
    client_certificate: str | None = None,
    client_key: str | None = None,
    insecure: bool | None = None,
) -> ExportSettings:
    """Read the export settings from the arguments, and from the environment for those that are None.

    `OTEL_EXPORTER_OTLP_TRACES_X` wins over `OTEL_EXPORTER_OTLP_X`. A timeout from the environment is in seconds, as
    the Python SDK reads it, and from 1,000 on in milliseconds, as the specification defines it.

    Args:
        endpoint: The collector's base URL; over HTTP, `/v1/traces` is appended if missing.
        protocol: `http/protobuf` or `grpc`.
        headers: Headers of every request, in addition to those of the environment.
        timeout_s: Longest time of one request, in seconds.
        compression: `none` or `gzip`.
        certificate: PEM file with the certificates to trust.
        client_certificate: PEM file with this client's certificate.
        client_key: PEM file with the key of the client's certificate.
        insecure: Use no TLS with gRPC if the endpoint has no scheme.

    Raises:
        ValueError: A setting is not usable; the message names the setting and the reason.
    """
    if protocol is None:
        protocol = wire_protocol()
    if compression is None:
        compression = cast("Compression", _one_of("COMPRESSION", get_args(Compression), "none"))
    return ExportSettings(
        endpoint=_endpoint(endpoint, protocol),
        protocol=protocol,
        headers={**_headers(), **{name.lower(): value for name, value in (headers or {}).items()}},
        timeout_s=_timeout_s() if timeout_s is None else timeout_s,
        compression=compression,
        certificate=certificate or _variable("CERTIFICATE")[1] or None,
        client_certificate=client_certificate or _variable("CLIENT_CERTIFICATE")[1] or None,
        client_key=client_key or _variable("CLIENT_KEY")[1] or None,
        insecure=_variable("INSECURE")[1].lower() == "true" if insecure is None else insecure,
    )


def wire_protocol(signal: str = "traces") -> WireProtocol:
    """The protocol that the environment sets for a signal, `http/protobuf` by default."""
    return cast("WireProtocol", _one_of("PROTOCOL", get_args(WireProtocol), "http/protobuf", signal))


def _variable(name: str, signal: str = "traces") -> tuple[str, str]:
    """Name and value of the variable in force: that of the signal wins over that of all signals."""
    for variable in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
        text = os.environ.get(variable, "").strip()
        if text:
            return variable, text
    return f"OTEL_EXPORTER_OTLP_{name}", ""


def _one_of(name: str, known: tuple[str, ...], default: str, signal: str = "traces") -> str:
    variable, text = _variable(name, signal)
    if text and text.lower() not in known:
        _log.warning("%s=%s is not supported: use %s; %s is used", variable, text, " or ".join(known), default)
        return default
    return text.lower() or default


def _timeout_s() -> float:
    variable, text = _variable("TIMEOUT")
    if not text:
        return _DEFAULT_TIMEOUT_S
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s < float("inf"):
        _log.warning("%s=%r is not a positive number: %g seconds are used", variable, text, _DEFAULT_TIMEOUT_S)
        return _DEFAULT_TIMEOUT_S
    return timeout_s / 1_000 if timeout_s >= _MILLISECONDS_FROM else timeout_s


def _headers() -> dict[str, str]:
    """Headers from the environment, written as `name=value,name=value` with percent-encoding.

    The warning about an invalid header does not show its value, which may be secret.
    """
    variable, text = _variable("HEADERS")
    headers: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = pair.partition("=")
        name, value = unquote(name).strip().lower(), unquote(value).strip()
        if equals and _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value):
            headers[name] = value
        else:
            shown = repr(name) if equals else "an entry without '='"
            _log.warning("%s has a header that cannot be sent, %s: the header is ignored", variable, shown)
    return headers


def _endpoint(endpoint: str | None, protocol: WireProtocol) -> str:
    if endpoint is not None:
        if not isinstance(endpoint, str):
            raise ValueError(f"the OTLP endpoint must be the collector's URL, a str, not {loggable(endpoint)!r}")
        return _with_path(endpoint, protocol)
    for_traces = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    if for_traces:  # the specification says to use it unchanged
        return for_traces
    return _with_path(
        os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip() or _DEFAULT_ENDPOINTS[protocol], protocol
    )


def _with_path(endpoint: str, protocol: WireProtocol) -> str:
    if protocol == "grpc":
        return endpoint
    url = urlsplit(endpoint)
    path = url.path.rstrip("/")
    return urlunsplit(url._replace(path=path if path.endswith(_TRACES_PATH) else path + _TRACES_PATH))
