"""Fixtures for the export of spans: scripted collectors, and a check for leaked threads and descriptors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowrt.telemetry.live import LIVE
from flowrt.telemetry.otlp import sender
from tests.telemetry.otlp.harness import HANG_GUARD_S, Answer, Collector


@pytest.fixture
def collector() -> Iterator[Callable[..., Collector]]:
    """Starts scripted collectors and stops them after the test."""
    started: list[Collector] = []

    def start(*script: Answer, **settings: Any) -> Collector:
        started.append(Collector(*script, **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(autouse=True)
def _warnings_are_new_in_each_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_warned_at", {})


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Fails a test whose pipelines leave threads or descriptors behind."""
    before = set(threading.enumerate())
    kept = {"flowrt-live"} if LIVE.served else set()  # an earlier test's application may not be garbage-collected yet
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("flowrt-") and thread.name not in kept:
            thread.join(HANG_GUARD_S)
            assert not thread.is_alive(), f"{thread.name} is left"
