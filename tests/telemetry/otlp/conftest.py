"""Fixtures for the export of spans: scripted collectors, and nothing left behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowrt.telemetry.live import LIVE
from flowrt.telemetry.otlp import sender as delivery
from tests.telemetry.otlp.harness import HANG_GUARD_S, Answer, Collector


@pytest.fixture
def collector() -> Iterator[Callable[..., Collector]]:
    """Starts a collector with a script, for the length of the test."""
    started: list[Collector] = []

    def start(*script: Answer, **settings: Any) -> Collector:
        started.append(Collector(*script, **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(autouse=True)
def _complaints_are_new_in_each_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_complained_at", {})


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """What a test's pipelines started has ended with them."""
    before = set(threading.enumerate())
    kept = {"flowrt-live"} if LIVE.served else set()  # by an earlier test's application that was not collected yet
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("flowrt-") and thread.name not in kept:
            thread.join(HANG_GUARD_S)
            assert not thread.is_alive(), f"{thread.name} is left"
