"""Redaction removes probable secrets and leaves ordinary text."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator

import pytest

from flowrt.telemetry.redaction import redact, safe_redact, shorten


@pytest.mark.parametrize(
    "text",
    [
        "bad password=canary here",
        "bad password: 'canary two' here",
        '{"api_key": "canary"}',
        "API-Key: canary",
        "access_key=canary&x=1",
        "Authorization: Bearer canary",
        "Authorization: Basic canary==",
        "sent bearer canary-token",
        "503 for https://canary@example.com/x",
        "503 for https://me:canary@example.com/x",
        "503 for https://example.com/x?q=canary",
        "postgresql://user:canary@db/name",
        "DB_PASSWORD=canary",
        "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\ncanary",
        "no such key canary0f9a8b7c6d5e4f3a",
        "no such key canary0f9a8b7c6d5e4f3a. Try again",
        "no such key canary0f9a8b7c6d5e4f3a.",
        "sk-canary-1234567890abcdef",
        "denied for canary-of-the-environment",
    ],
)
def test_secret_is_redacted(text: str) -> None:
    shown = redact(text, {"SOME_TOKEN": "canary-of-the-environment", "HOME": "/home/canary"})
    assert "canary" not in shown
    assert "[redacted]" in shown


def test_redaction_survives_a_vanishing_variable() -> None:
    class Vanishing(UserDict[str, str]):
        def __iter__(self) -> Iterator[str]:
            names = list(super().__iter__())
            self.data.clear()
            return iter(names)

    assert redact("none of canary", Vanishing(SOME_TOKEN="canary")) == "none of canary"


@pytest.mark.parametrize(
    "text",
    [
        "KeyError: 'city'",
        "503 Service Unavailable for https://example.com/places/1768",
        "[Errno 111] Connect call failed ('127.0.0.1', 5432)",
        "no airport 123e4567-e89b-12d3-a456-426614174000",
        "'NoneType' object has no attribute 'decode'",
        'File "/srv/app/jobs/enrich_places_2024_v12.py", line 12, in enrich',
        "<Response object at 0x7f1234567890abcd>",
        "the attempt took longer than item_timeout=1.5 s",
        "unexpected token at line 3",
        "monkeys: 3",
        "no module jobs.enrich_places_2024_v12, nor enrich_places_2024_v12.py",
        "naïveidentifier2024v12x",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text, {"SOME_TOKEN": "canary-of-the-environment", "CITY": "Service"}) == text


def test_path_stays_even_if_its_variable_sounds_secret() -> None:
    environment = {"PWD": "/srv/jobs", "SSH_AUTH_SOCK": "/tmp/agent.1234"}  # noqa: S108  # a path that looks like one
    text = "/srv/jobs/enrich.py:12 in look_up, /tmp/agent.1234"
    assert redact(text, environment) == text


def test_lone_surrogate_is_escaped_and_text_is_cut_on_request() -> None:
    assert shorten("a b " * 1_000) == "a b " * 249 + "a b…"
    assert redact("\udc80") == "\\udc80"


def test_redaction_of_hostile_text_is_fast() -> None:
    texts = ("a", "://", "key=", "-----BEGIN A-----", "Bearer ", "+", "a.", "pass ", 'key="', "http://a?", "basic")
    for text in texts:  # a pattern that takes quadratic time would take hours
        assert redact(text * (1_000_000 // len(text)) + "/ ://")


def test_redaction_follows_changes_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redact("denied for abcdefgh") == "denied for abcdefgh"
    monkeypatch.setenv("SERVICE_TOKEN", "abcdefgh")
    assert redact("denied for abcdefgh") == "denied for [redacted]"
    monkeypatch.delenv("SERVICE_TOKEN")
    assert redact("denied for abcdefgh") == "denied for abcdefgh"


def test_failing_function_hides_the_whole_text() -> None:
    assert safe_redact(lambda text: text.no_such_method())("secret") == "[redact() failed]"  # type: ignore[attr-defined]
    assert safe_redact(lambda _: None)("secret") == "[redact() failed]"  # type: ignore[arg-type,return-value]
    assert safe_redact(lambda _: "\udc80")("secret") == "\\udc80"
    assert safe_redact(None)("secret \udc80") == "secret \\udc80"
    assert safe_redact(redact) is redact
