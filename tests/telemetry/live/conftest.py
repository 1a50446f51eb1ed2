"""A server, a batch on a loop of its own that waits to be told, and a real browser."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from flowrt.server import TelemetryServer
from flowrt.telemetry.live import LIVE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HANG_S = 30.0

Aside = Callable[[Coroutine[Any, Any, Any]], threading.Thread]


@pytest.fixture
def server() -> Iterator[TelemetryServer]:
    """A server of the process's own page."""
    server = TelemetryServer(0)
    server.start()
    yield server
    server.stop()
    assert not LIVE.served
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flowrt-")]


@pytest.fixture
def aside() -> Iterator[Aside]:
    """Runs a coroutine on a loop in a thread of its own, as the browser's driver holds this thread's loop."""
    threads: list[threading.Thread] = []

    def start(main: Coroutine[Any, Any, Any]) -> threading.Thread:
        thread = threading.Thread(target=asyncio.run, args=(main,), name="batch", daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(HANG_S)
        assert not thread.is_alive(), "the batch did not end"


@pytest.fixture(scope="module")  # while it runs, no other loop can in this thread
def browser() -> Iterator[Browser]:
    """Chromium, for all tests of a module."""
    from tools.browser import chromium

    with chromium() as running:
        yield running
