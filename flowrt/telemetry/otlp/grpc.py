"""OTLP over gRPC: sends encoded requests through a grpcio channel."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from flowrt._version import __version__
from flowrt.errors import MissingExtraError, one_line
from flowrt.telemetry.otlp.config import ExportSettings
from flowrt.telemetry.otlp.transport import Outcome, fields, partial_success

if "grpc" not in sys.modules:  # grpc reads the variable at import
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

try:
    import grpc
except ImportError:
    raise MissingExtraError("export over gRPC", "grpcio", "grpc") from None

__all__ = ["GrpcTransport"]

_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
# The OTLP specification's list. RESOURCE_EXHAUSTED is retryable only if the collector sends a retry delay.
_RETRYABLE: Final = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS", "RESOURCE_EXHAUSTED"}
)
_RETRY_INFO: Final = b"type.googleapis.com/google.rpc.RetryInfo"
_OPTIONS: Final = (
    ("grpc.primary_user_agent", f"flowrt/{__version__}"),
    ("grpc.enable_retries", 0),  # the sender retries; gRPC retrying too would multiply the attempts
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_MAX_SHOWN: Final = 200
# Without it, a child that touches gRPC hangs or is aborted.
_SURVIVES_FORKS: Final = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in ("1", "true", "yes")
_FORK_ADVICE: Final = (
    "gRPC cannot be used in a forked child: set GRPC_ENABLE_FORK_SUPPORT=1 before grpc is imported, or export over "
    "http/protobuf"
)


class GrpcTransport:
    """Transport that calls a collector's TraceService.

    Args:
        settings: Endpoint, headers and credentials.
    """

    def __init__(self, settings: ExportSettings) -> None:
        self.timeout_s = settings.timeout_s
        self.where = settings.where
        self._target = settings.url.netloc
        self._metadata = tuple((name.lower(), value) for name, value in settings.headers.items())
        self._compression = grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression
        self._credentials: Any = None
        if settings.url.scheme == "https":
            self._credentials = grpc.ssl_channel_credentials(
                root_certificates=_content(settings.certificate),
                private_key=_content(settings.client_key or settings.client_certificate),
                certificate_chain=_content(settings.client_certificate),
            )
        self._channel: Any = None
        self._export: Any = None
        self._call: Any = None
        self._of_parents: list[Any] = []
        self._usable = True

    def pack(self, payloads: Sequence[bytes]) -> Sequence[bytes]:
        """Join the payloads to the one message that a call takes. gRPC compresses it."""
        return (b"".join(payloads),)

    def send(self, body: Sequence[bytes]) -> Outcome:
        """Send one request."""
        (request,) = body
        if not self._usable:
            return Outcome(False, kind="forked", detail=_FORK_ADVICE)
        if self._channel is None:
            self._connect()
        call = self._export.future(
            request, timeout=self.timeout_s, metadata=self._metadata, compression=self._compression
        )
        self._call = call
        try:
            answer: bytes = call.result()
        except grpc.FutureCancelledError:
            return Outcome(False, retry=True, kind="CANCELLED", detail="CANCELLED")
        except grpc.RpcError as error:
            return _failure(error)
        finally:
            self._call = None
        rejected, message = partial_success(answer)
        kind = "partial success" if rejected or message else ""
        return Outcome(True, rejected=rejected, kind=kind, detail=_shown(message))

    def abort(self) -> None:
        """Cancel the active call."""
        call = self._call
        if call is not None:
            call.cancel()

    def close(self) -> None:
        """Close the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def forget(self) -> None:
        """In a forked child, drop the parent's channel without closing it."""
        self._of_parents += (self._channel, self._export, self._call)
        self._channel = self._export = self._call = None
        self._usable = _SURVIVES_FORKS

    def _connect(self) -> None:
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self._target, options=_OPTIONS)
        else:
            self._channel = grpc.secure_channel(self._target, self._credentials, options=_OPTIONS)
        self._export = self._channel.unary_unary(_METHOD)  # without serializers: bytes in, bytes out


def _content(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _failure(error: Any) -> Outcome:
    status = error.code().name
    detail = _shown(f"{status} {error.details() or ''}".rstrip())
    after_s = None
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            with contextlib.suppress(ValueError):
                after_s = _retry_delay_s(value)
    retry = status in _RETRYABLE and (status != "RESOURCE_EXHAUSTED" or after_s is not None)
    return Outcome(False, retry=retry, after_s=after_s or 0.0, kind=status, detail=detail)


def _retry_delay_s(status: bytes) -> float | None:
    """Retry delay of a google.rpc.Status in seconds; None if it has none."""
    for number, detail in fields(status):
        if number != 3 or not isinstance(detail, bytes):
            continue
        found = dict(fields(detail))
        info = found.get(2, b"")
        if found.get(1) == _RETRY_INFO and isinstance(info, bytes):
            delay = dict(fields(info)).get(1, b"")
            parts = dict(fields(delay)) if isinstance(delay, bytes) else {}
            seconds, nanos = parts.get(1, 0), parts.get(2, 0)
            if isinstance(seconds, int) and isinstance(nanos, int) and seconds < 1 << 63:  # else negative
                return seconds + nanos / 1e9
            return 0.0
    return None


def _shown(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
