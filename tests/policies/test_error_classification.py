"""Classification of the exceptions of other libraries by their attributes."""

from __future__ import annotations

import asyncio
import email.message
import sys
import time
import urllib.error
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import aiohttp
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrt.policies.error_classification import (
    has_details,
    kind_of,
    kind_of_plain_type,
    parse_retry_after,
    retry_after_of,
    status_of,
)

WALL_S = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC).timestamp()


class FailureError(Exception):
    def __init__(self, **attributes: Any) -> None:
        super().__init__("it failed")
        self.__dict__.update(attributes)


class EmptyError(FailureError):
    """A false exception, as error lists of validation libraries are."""

    def __len__(self) -> int:
        return 0


def botocore_error(status: int, code: str = "", headers: dict[str, str] | None = None) -> FailureError:
    """An exception with the `response` of botocore's ClientError."""
    metadata = {"RequestId": "7", "HTTPStatusCode": status, "HTTPHeaders": headers or {}, "RetryAttempts": 0}
    return FailureError(response={"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata})


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("several", errors)


class HostileError(Exception):
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("__") else RuntimeError(name)


def httpx_error(status: int, headers: dict[str, str] | None = None) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://127.0.0.1/")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, headers=headers))


def aiohttp_error(status: int, headers: Any = None) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(None, (), status=status, headers=headers)  # type: ignore[arg-type]


def urllib_error(status: int, **headers: str) -> urllib.error.HTTPError:
    message = email.message.Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://127.0.0.1/", status, "no", message, None)


@pytest.mark.parametrize(
    ("exc", "status"),
    [
        (httpx_error(503), 503),
        (aiohttp_error(429), 429),
        (urllib_error(404), 404),
        (FailureError(status_code=529), 529),
        (FailureError(status=HTTPStatus.BAD_GATEWAY), 502),
        (FailureError(response=FailureError(status=500)), 500),
        (FailureError(code="rate_limit_exceeded", status_code=429), 429),
        (FailureError(code="e3q8"), None),
        (FailureError(code=1), None),
        (FailureError(status=True), None),
        (FailureError(status="503"), 503),
        (FailureError(status="unknown"), None),
        (FailureError(code="0503"), None),
        (FailureError(response=None), None),
        (EmptyError(status=404), 404),
        (FailureError(response={"status": 503}), 503),
        (botocore_error(503), 503),
        (botocore_error(404, "NoSuchKey"), 404),
        (botocore_error(400, "ThrottlingException"), 429),
        (botocore_error(400, "ProvisionedThroughputExceededException"), 429),
        (botocore_error(503, "SlowDown"), 429),
        (FailureError(response={"Error": "ThrottlingException"}), None),
        (FailureError(response={"ResponseMetadata": None}), None),
        (FailureError(response={}), None),
        (HostileError(), None),
        (ValueError(503), None),
        (None, None),
    ],
)
def test_status_of_reads_the_attributes_of_common_clients(exc: Any, status: int | None) -> None:
    assert status_of(exc) == status


@pytest.mark.parametrize(
    ("exc", "seconds"),
    [
        (FailureError(retry_after=7), 7),
        (FailureError(retry_after="2.5"), 2.5),
        (FailureError(retry_after=timedelta(minutes=2)), 120),
        (httpx_error(429, {"Retry-After": "12"}), 12),
        (httpx_error(429, {"retry-after-ms": "250", "retry-after": "1"}), 0.25),
        (httpx_error(503, {"Retry-After": "Thu, 01 Jan 2026 12:01:30 GMT"}), 90),
        (httpx_error(503, {"Retry-After": "Thu, 01 Jan 2026 11:00:00 GMT"}), 0),
        (aiohttp_error(429, {"Retry-After": "3"}), 3),
        (aiohttp_error(429, {"retry-after": "3"}), 3),
        (urllib_error(429, Retry_After="5"), 5),
        (EmptyError(retry_after=4), 4),
        (botocore_error(429, headers={"retry-after": "6"}), 6),
        (FailureError(response={"headers": {"Retry-After": "8"}}), 8),
        (group(ValueError(), group(FailureError(retry_after=2), FailureError(retry_after=9))), 9),
        (group(ValueError()), None),
        (httpx_error(429, {"Retry-After": "soon"}), None),
        (httpx_error(429), None),
        (FailureError(headers=["Retry-After"]), None),
        (FailureError(retry_after=True), None),
        (HostileError(), None),
        (ValueError(), None),
    ],
)
def test_retry_after_of_reads_the_attributes_of_common_clients(exc: Any, seconds: float | None) -> None:
    assert retry_after_of(exc, wall_s=WALL_S) == seconds


def test_retry_after_of_reads_a_named_attribute() -> None:
    assert retry_after_of(FailureError(wait_for=4), "wait_for") == 4


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (b"9", 9.0),
        ("", None),
        (-1, None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        (float("inf"), None),
        ([], None),
        (datetime(2026, 1, 1, 12, 0, 5, tzinfo=UTC), 5.0),
        (datetime(2026, 1, 1, 12, 0, 5), 5.0),  # noqa: DTZ001  # as parsed from a date without a zone
    ],
)
def test_parse_retry_after_reads_numbers_numerals_and_dates(value: Any, seconds: float | None) -> None:
    assert parse_retry_after(value, WALL_S) == seconds


def test_date_without_a_zone_is_in_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert parse_retry_after(datetime(2026, 1, 1, 12, 0, 5), WALL_S) == 5.0  # noqa: DTZ001
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text() | st.binary() | st.integers() | st.floats() | st.timedeltas() | st.none())
def test_parse_retry_after_never_raises(value: Any) -> None:
    seconds = parse_retry_after(value, WALL_S)
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (TimeoutError(), "timeout"),
        (httpx.ReadTimeout("late"), "timeout"),
        (httpx.ConnectError("refused"), "error"),
        (httpx_error(504), "timeout"),
        (httpx_error(408), "timeout"),
        (httpx_error(429), "rate_limited"),
        (group(ValueError(), group(TimeoutError())), "timeout"),
        (group(TimeoutError(), httpx_error(429)), "rate_limited"),
        (group(ValueError(), httpx_error(500)), "error"),
        (httpx_error(500), "error"),
        (ValueError(), "error"),
        (None, "error"),
    ],
)
def test_kind_of_distinguishes_timeouts_and_throttling(exc: Any, kind: str) -> None:
    assert kind_of(exc) == kind


def test_retry_after_makes_an_error_rate_limited() -> None:
    assert kind_of(httpx_error(503), retry_after=5.0) == "rate_limited"


class LateError(Exception):
    """An exception whose type says something of HTTP, as a property."""

    @property
    def status_code(self) -> int:
        return 429


@pytest.mark.parametrize("name", ["status", "status_code", "code", "HTTPStatusCode"])
def test_status_set_on_one_plain_exception_counts(name: str) -> None:
    plain, throttled = ConnectionError(), ConnectionError()
    setattr(throttled, name, 429)
    assert [status_of(exc) for exc in (plain, throttled, plain)] == [None, 429, None]
    assert [kind_of(exc) for exc in (plain, throttled, LateError())] == ["error", "rate_limited", "rate_limited"]


def test_wait_set_on_one_plain_exception_counts() -> None:
    plain, waits, own = ConnectionError(), ConnectionError(), ConnectionError()
    waits.retry_after, own.pause = 3, 4  # type: ignore[attr-defined]
    assert [retry_after_of(exc) for exc in (plain, waits, plain)] == [None, 3.0, None]
    assert [retry_after_of(exc, "pause") for exc in (plain, own)] == [None, 4.0]


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        (ConnectionError, "error"),
        (TimeoutError, "timeout"),
        (asyncio.CancelledError, "error"),
        (LateError, None),
        (ExceptionGroup, None),
        (str, None),
    ],
)
def test_type_is_classified_where_nothing_else_counts(type_: type, kind: str | None) -> None:
    assert kind_of_plain_type(type_) == kind


@pytest.mark.parametrize("name", ["status", "retry_after", "headers", "response"])
def test_exception_has_details_once_an_attribute_is_set(name: str) -> None:
    exc = ConnectionError()
    exc.note = "read by nothing here"  # type: ignore[attr-defined]
    assert not has_details(exc)
    setattr(exc, name, None)
    assert has_details(exc)


def test_plain_exceptions_are_classified_in_few_calls() -> None:
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    kind_of(ConnectionError())  # the type is examined once
    sys.setprofile(count)
    try:
        kind_of(ConnectionError(), retry_after=retry_after_of(ConnectionError()))
    finally:
        sys.setprofile(None)
    assert calls < 12
