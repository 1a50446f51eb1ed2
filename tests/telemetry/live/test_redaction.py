"""Redaction removes probable secrets and leaves ordinary text."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator

import pytest

from flowrt.telemetry.live.redaction import redact


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
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text, {"SOME_TOKEN": "canary-of-the-environment", "CITY": "Service"}) == text


def test_path_stays_even_if_its_variable_sounds_secret() -> None:
    environment = {"PWD": "/srv/jobs", "SSH_AUTH_SOCK": "/tmp/agent.1234"}  # noqa: S108  # a path that looks like one
    text = "/srv/jobs/enrich.py:12 in look_up, /tmp/agent.1234"
    assert redact(text, environment) == text


def test_long_text_is_cut_and_lone_surrogate_escaped() -> None:
    assert len(redact("a b " * 1_000_000)) == 1_000
    assert redact("\udc80") == "\\udc80"


def test_redaction_of_hostile_text_is_fast() -> None:
    for text in ("a" * 100_000, "://" * 30_000, "key=" * 30_000, "-----BEGIN A-----" * 6_000, "Bearer " * 15_000):
        assert len(redact(text)) <= 1_000
