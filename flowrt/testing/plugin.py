"""Pytest plugin with flowrt's fixtures: `pytest_plugins = ["flowrt.testing.plugin"]` in a conftest.py.

It is not loaded by itself, so that projects that merely have flowrt installed pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from flowrt.testing import virtual_time
from flowrt.testing.telemetry import CapturedTelemetry, capture_telemetry

__all__ = ["run_virtual", "telemetry"]


@pytest.fixture
def telemetry() -> Iterator[CapturedTelemetry]:
    """Spans, metrics and log events of the batches in this test."""
    with capture_telemetry() as captured:
        yield captured


@pytest.fixture
def run_virtual() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine in virtual time and asserts that it leaves no task behind."""
    return virtual_time.run_virtual
