"""Grouping of failures by cause, and its bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowrt.model import BatchResult
from flowrt.recording.error_groups import ErrorGroups
from flowrt.telemetry.redaction import redact


def failed(
    index: int, error: str, error_type: str = "ValueError", exception: BaseException | None = None
) -> BatchResult:
    return BatchResult(
        index,
        None,
        success=False,
        error=error,
        error_type=error_type,
        exception=exception,
        attempts=1,
        trace_id="ab" * 16,
    )


@pytest.mark.parametrize(
    "errors",
    [
        ("item 1 is bad", "item 22 is bad"),
        ("no user 'anna'", "no user 'bob'"),
        ("GET http://a/1 failed", "GET https://b/2?x=y failed"),
        ("request 0f8fad5b-d9cb-469f-a165-70867728950e failed", "request 7c9e6679-7425-40de-944b-e07fc1f90ae7 failed"),
        ("object at 0x7f1122334455", "object at 0x7f1122334466"),
    ],
)
def test_messages_that_differ_only_in_values_form_one_group(errors: tuple[str, str]) -> None:
    causes = ErrorGroups()
    assert [causes.number_of(failed(i, error)) for i, error in enumerate(errors)] == [0, 0]
    (cause,) = causes.found
    assert cause["count"] == 2
    assert [example["error"] for example in cause["examples"]] == list(map(redact, errors))
    assert cause["examples"][0]["trace_id"] == "ab" * 16


def test_constant_message_is_shown_unchanged() -> None:
    causes = ErrorGroups()
    causes.number_of(failed(0, "'name'", "KeyError"))
    causes.number_of(failed(1, "'name'", "KeyError"))
    assert causes.found[0]["text"] == "'name'"
    causes.number_of(failed(2, "'age'", "KeyError"))
    assert causes.found[0]["text"] == "'…'"
    assert causes.found[0]["count"] == 3


def test_response_status_is_part_of_the_group() -> None:
    class HTTPError(Exception):
        def __init__(self, status: int) -> None:
            self.status = status

    causes = ErrorGroups()
    for index, status in enumerate((404, 503, 404)):
        causes.number_of(failed(index, f"{status} for item {index}", "HTTPError", HTTPError(status)))
    assert [(cause["text"], cause["count"]) for cause in causes.found] == [("404 for item N", 2), ("503 for item 1", 1)]


def test_different_words_or_types_form_different_groups() -> None:
    causes = ErrorGroups()
    seen = [
        causes.number_of(failed(0, "no route")),
        causes.number_of(failed(1, "refused")),
        causes.number_of(failed(2, "refused", "OSError")),
    ]
    assert seen == [0, 1, 2]


def test_group_has_kind_http_status_and_location() -> None:
    class TooManyError(Exception):
        status_code = 429

    causes = ErrorGroups()
    try:
        raise TooManyError("slow down")
    except TooManyError as exc:
        causes.number_of(failed(0, "slow down", "TooManyError", exc))
    (cause,) = causes.found
    assert (cause["kind"], cause["http_status"]) == ("rate_limited", 429)
    assert cause["where"].startswith(f"{Path(__file__).name}:")


def test_groups_and_examples_are_bounded() -> None:
    causes = ErrorGroups()
    word = "abcdefghij"
    for i in range(10_000):
        text = "".join(word[int(digit)] for digit in f"{i:05d}")
        causes.number_of(failed(i, text + "x" * 10_000))
    assert len(causes.found) == 201
    assert causes.found[-1]["type"] == "_OTHER"
    assert sum(cause["count"] for cause in causes.found) == 10_000
    assert all(len(cause["examples"]) <= 3 for cause in causes.found)
    assert all(len(example["error"]) <= 500 for cause in causes.found for example in cause["examples"])
