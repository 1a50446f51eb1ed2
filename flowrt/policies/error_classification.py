"""Classification of errors: HTTP status, Retry-After and kind of an exception, for any client library.

Client libraries agree only on a few attribute names, so the functions read those, the most specific first. Of an
ExceptionGroup they read the exceptions in it. They run for failed attempts only; successful items do not pay for them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final, Literal

__all__ = [
    "Kind",
    "has_details",
    "kind_of",
    "kind_of_plain_type",
    "leaves_of",
    "parse_retry_after",
    "retry_after_of",
    "status_of",
]

Kind = Literal["error", "timeout", "rate_limited"]
"""Why an attempt failed, as far as the next step depends on it."""

_STATUS_NAMES: Final = ("status", "status_code", "code", "HTTPStatusCode")
_HEADERS_NAMES: Final = ("headers", "HTTPHeaders")
_READ: Final = frozenset({"response", "retry_after", *_STATUS_NAMES, *_HEADERS_NAMES})  # of an exception itself
_MISSING: Final = object()
_AWS_THROTTLING: Final = frozenset(  # codes without "Throttl", which AWS services send with a status of 400 or 503
    {
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)


def leaves_of(exc: object) -> list[Any]:
    """Return the exceptions of an ExceptionGroup at all levels, each once; of another exception, itself.

    Args:
        exc: Any exception.
    """
    if not isinstance(exc, BaseExceptionGroup):
        return [exc]
    leaves: dict[int, BaseException] = {}
    groups: dict[int, BaseExceptionGroup[BaseException]] = {id(exc): exc}
    pending = [exc]
    while pending:
        for member in pending.pop().exceptions:
            if not isinstance(member, BaseExceptionGroup):
                leaves[id(member)] = member
            elif id(member) not in groups:  # groups may share groups, and then have exponentially many paths
                groups[id(member)] = member
                pending.append(member)
    return list(leaves.values())


@lru_cache(maxsize=256)
def _is_plain_type(kind: type) -> bool:
    """Return whether a type has none of the attributes that are read here, except if one is set on an exception."""
    return (
        issubclass(kind, BaseException)
        and not issubclass(kind, (BaseExceptionGroup, Mapping))
        and kind.__getattribute__ is BaseException.__getattribute__
        and not any(hasattr(kind, name) for name in (*_READ, "__getattr__"))
    )


def _is_plain(exc: object) -> bool:
    """Return True if an exception says nothing of HTTP, as most do not: it has no attribute that is read here."""
    kind: Any = type(exc)
    return _is_plain_type(kind) and (not exc.__dict__ or _READ.isdisjoint(exc.__dict__))


@lru_cache(maxsize=256)
def _is_timeout_type(kind: type) -> bool:
    """Return True if a type derives from a timeout by its name, as those of httpx, requests and model APIs do."""
    return issubclass(kind, TimeoutError) or any("Timeout" in cls.__name__ for cls in kind.__mro__)


def status_of(exc: object) -> int | None:
    """Return the HTTP status that an exception carries, or None.

    Reads `status` (aiohttp), `status_code` (clients of model APIs), `response.status_code` (httpx, requests),
    `response.status`, `code` (urllib) and a `response` that is a mapping (botocore). A `code` outside 100 to 599 is
    ignored. The throttling errors of AWS count as 429, whatever their status.

    Args:
        exc: Any exception; of an ExceptionGroup, the status that its exceptions agree on, or 429 if one is throttled.
    """
    if _is_plain(exc):
        return None
    if isinstance(exc, BaseExceptionGroup):
        statuses = {status_of(leaf) for leaf in leaves_of(exc)}
        return 429 if 429 in statuses else statuses.pop() if len(statuses) == 1 else None
    response = _get(exc, "response")
    if isinstance(response, Mapping):
        code = _get(_get(response, "Error"), "Code")
        if isinstance(code, str) and ("Throttl" in code or code in _AWS_THROTTLING):
            return 429
    for holder in (exc, response, _get(response, "ResponseMetadata")):
        for name in _STATUS_NAMES:
            value = _get(holder, name)
            if isinstance(value, str) and len(value) == 3 and value.isdecimal():  # as some clients keep it
                value = int(value)
            # http.HTTPStatus is an int too; True is not a status
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
                return int(value)
    return None


def retry_after_of(exc: object, attribute: str = "retry_after", wall_s: float | None = None) -> float | None:
    """Return how long the service asks its callers to wait, in seconds, or None.

    Reads the attribute first, then the headers of the exception's response and of the exception: `retry-after-ms`,
    then `Retry-After`.

    Args:
        exc: Any exception; of an ExceptionGroup, the longest wait of its exceptions.
        attribute: The attribute's name.
        wall_s: The time since 1970, in seconds, to compare a date with; the system's by default.
    """
    plain = _is_plain(exc)
    if plain and attribute in _READ:
        return None
    found = parse_retry_after(_get(exc, attribute), wall_s)
    if found is not None or plain:
        return found
    if isinstance(exc, BaseExceptionGroup):
        waits = [retry_after_of(leaf, attribute, wall_s) for leaf in leaves_of(exc)]
        return max((wait for wait in waits if wait is not None), default=None)
    response = _get(exc, "response")
    for holder in (response, _get(response, "ResponseMetadata"), exc):
        for name in _HEADERS_NAMES:
            headers = _get(holder, name)
            if headers is None:
                continue
            milliseconds = parse_retry_after(_header(headers, "retry-after-ms"), wall_s)
            if milliseconds is not None:
                return milliseconds / 1000
            found = parse_retry_after(_header(headers, "Retry-After"), wall_s)
            if found is not None:
                return found
    return None


def parse_retry_after(value: Any, wall_s: float | None = None) -> float | None:
    """Parse a number, a numeral, an HTTP date, a timedelta or a datetime into seconds; None for anything else.

    Args:
        value: The value of an attribute or header. A time in the past means 0.
        wall_s: The time since 1970, in seconds; the system's by default.
    """
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, (bytes, bytearray)):
        value = value.decode("latin-1")
    if isinstance(value, str):
        text = value.strip()
        try:
            value = float(text)
        except ValueError:
            try:
                value = parsedate_to_datetime(text)
            except (ValueError, OverflowError):
                return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, datetime):
        if value.tzinfo is None:  # HTTP dates are in UTC
            value = value.replace(tzinfo=UTC)
        now_s = time.time() if wall_s is None else wall_s
        return max(0.0, float(value.timestamp()) - now_s)
    if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None
    return float(value)


def kind_of(exc: object, *, retry_after: float | None = None) -> Kind:
    """Classify an exception as a timeout, as throttling, or as another error.

    Args:
        exc: Any exception; an ExceptionGroup is rate-limited, or else a timeout, if one of its exceptions is.
        retry_after: The result of `retry_after_of`, if known: a service that names a wait is throttling.
    """
    if isinstance(exc, BaseExceptionGroup):
        kinds = {kind_of(leaf) for leaf in leaves_of(exc)}
        if retry_after is not None or "rate_limited" in kinds:
            return "rate_limited"
        return "timeout" if "timeout" in kinds else "error"
    status = status_of(exc)
    if status == 429 or retry_after is not None:
        return "rate_limited"
    kind: Any = type(exc)
    return "timeout" if status in (408, 504) or _is_timeout_type(kind) else "error"


def kind_of_plain_type(kind: type) -> Kind | None:
    """Classify the exceptions of a type that has no status and names no wait, as most; None for other types.

    For such an exception `status_of` and `retry_after_of` return None, unless it `has_details` of its own.

    Args:
        kind: Any type.
    """
    if not _is_plain_type(kind):
        return None
    return "timeout" if _is_timeout_type(kind) else "error"


def has_details(exc: object) -> bool:
    """Return True if an attribute that is read here was set on an exception itself."""
    return not _READ.isdisjoint(exc.__dict__)


def _get(holder: object, name: str) -> Any:
    try:
        return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
    except Exception:  # a property that raises: treat it as missing
        return None


def _header(headers: Any, name: str) -> Any:
    for spelling in (name, name.lower()):
        try:
            value = headers[spelling] if isinstance(headers, Mapping) else headers.get(spelling, _MISSING)
        except Exception:  # a missing header, or headers of an unknown type
            value = _MISSING
        if value is not _MISSING:
            return value
    return None
