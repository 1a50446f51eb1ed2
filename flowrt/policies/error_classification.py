"""What an exception says about the service behind it, whichever client library raised it.

Clients agree on nothing but a few attribute names, so those are asked for, in an order that takes the more specific
first. Only failures come here: none of it is on the way of an item that succeeds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

__all__ = ["Kind", "kind_of", "parse_retry_after", "retry_after_of", "status_of"]

Kind = Literal["error", "timeout", "rate_limited"]
"""Why an attempt failed, as far as what to do next depends on it."""

_STATUS_NAMES: Final = ("status", "status_code", "code")
_MISSING: Final = object()


def status_of(exc: object) -> int | None:
    """The HTTP status that an exception carries, or None.

    Looked for in `status` (aiohttp), `status_code` (model APIs' clients), `response.status_code` (httpx, requests),
    `response.status` and `code` (urllib). A `code` that is no HTTP status is none.

    Args:
        exc: Any exception.
    """
    response = _get(exc, "response")
    for holder in (exc, response):
        for name in _STATUS_NAMES:
            value = _get(holder, name)
            # http.HTTPStatus is an int too; True is not a status
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
                return int(value)
    return None


def retry_after_of(exc: object, attribute: str = "retry_after", wall_s: float | None = None) -> float | None:
    """For how long the service asked not to be called, in seconds, or None.

    Looked for in the attribute, then among the headers of the exception and of its response: `retry-after-ms`, then
    `Retry-After`.

    Args:
        exc: Any exception.
        attribute: The attribute's name.
        wall_s: The time since 1970 in seconds, to which a date is compared; the system's by default.
    """
    found = parse_retry_after(_get(exc, attribute), wall_s)
    if found is not None:
        return found
    for holder in (_get(exc, "response"), exc):
        headers = _get(holder, "headers")
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
    """Seconds from a number, a numeral, an HTTP date, a timedelta or a datetime; None for anything else.

    Args:
        value: As an exception or a header gives it. A moment that is past means 0.
        wall_s: The time since 1970 in seconds; the system's by default.
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
    """Whether an exception tells of a timeout, of throttling, or of something else.

    Args:
        exc: Any exception.
        retry_after: What `retry_after_of` found, where it was asked: a service that says when to come back throttles.
    """
    status = status_of(exc)
    if status == 429 or retry_after is not None:
        return "rate_limited"
    if isinstance(exc, TimeoutError) or status in (408, 504):
        return "timeout"
    # httpx, requests and the model APIs' clients name their timeouts so and derive them from their own base
    if any("Timeout" in cls.__name__ for cls in type(exc).__mro__):
        return "timeout"
    return "error"


def _get(holder: object, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # a property that raises says nothing about the service
        return None


def _header(headers: Any, name: str) -> Any:
    for spelling in (name, name.lower()):
        try:
            value = headers[spelling] if isinstance(headers, Mapping) else headers.get(spelling, _MISSING)
        except Exception:  # not there, or not a mapping at all
            value = _MISSING
        if value is not _MISSING:
            return value
    return None
