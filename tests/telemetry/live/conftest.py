"""Fixtures: a server, a loop in a separate thread, a real browser."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from flowrt.server import TelemetryServer
from flowrt.telemetry.live import LIVE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HANG_S = 30.0

Spawn = Callable[[Coroutine[Any, Any, Any]], threading.Thread]


@pytest.fixture
def server() -> Iterator[TelemetryServer]:
    """Server with the page of this process."""
    gc.collect()  # closes the pages of earlier tests' applications
    server = TelemetryServer(0)
    server.start()
    yield server
    server.stop()
    assert not LIVE.served
    lasting = "flowrt-worker-start"  # starts worker processes, and lives as long as this process
    for thread in threading.enumerate():
        if thread.name.startswith("flowrt-") and thread.name != lasting:
            thread.join(HANG_S)  # a Runtime's may be on its way out when the batch is known to have ended
            assert not thread.is_alive(), f"{thread.name} is left"


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Run coroutines on loops in other threads, because the browser's driver occupies this thread's loop."""
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


@pytest.fixture(scope="module")  # occupies the thread's loop while it is open
def browser() -> Iterator[Browser]:
    """Chromium for all tests of a module."""
    from playwright.sync_api import expect

    from tools.browser import chromium

    expect.set_options(timeout=HANG_S * 1000)
    with chromium() as running:
        yield running
