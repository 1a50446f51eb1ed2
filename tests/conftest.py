"""How the tests run coroutines: on every kind of loop, and in virtual time."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import looptime
import pytest
import uvloop
from opentelemetry import trace
from opentelemetry.util._once import Once

from flowrt.telemetry.live import LIVE
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.tracing import setup
from tests import examples
from tests.forked import Forks

_as_it_is = hypothesis.settings.get_profile(hypothesis.settings.get_current_profile_name())  # CI has one of its own
hypothesis.settings.register_profile("here", _as_it_is, max_examples=examples.examples(_as_it_is.max_examples))
hypothesis.settings.load_profile("here")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job: children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


class VirtualTimeLoop(looptime.LoopTimeEventLoop, asyncio.SelectorEventLoop):
    """An event loop on which a day of sleeping takes milliseconds."""


def virtual_loop() -> asyncio.AbstractEventLoop:
    """A fresh virtual-time loop whose time starts at 0."""
    loop = VirtualTimeLoop()
    loop.setup_looptime(start=0, idle_step=None)
    return loop


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "virtual": virtual_loop,
}

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def run_on(factory: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end and check that it leaves no task behind."""

    async def guarded() -> Any:
        before = asyncio.all_tasks()
        try:
            return await main
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - before
            assert not left, f"tasks left behind: {left}"

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(guarded())


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a real loop, once on asyncio's and once on uvloop's."""
    factory = LOOPS[request.param]
    return lambda main: run_on(factory, main)


@pytest.fixture
def run_virtual() -> Run:
    """Runs a coroutine in virtual time: sleeping takes no time."""
    return lambda main: run_on(virtual_loop, main)


ON_ONE_PYTHON = (
    *("ablation/", "bench/", "chaos/", "cli/test_bench.py", "cli/test_resuming.py", "demo/", "docs/"),
    *("journal/test_kills.py", "journal/test_scan.py", "loadtest/", "reporting/", "server/test_saturated.py"),
    *("telemetry/test_exposition.py", "test_typing.py", "whatif/"),
)
"""Tests of whole commands and of formats, which take long and are the same on every Python."""


@pytest.hookimpl(tryfirst=True)  # before the marks are asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs on one Python only."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).as_posix().startswith(ON_ONE_PYTHON):
            item.add_marker(pytest.mark.parts)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs the command in processes that have it imported already."""
    server = Forks()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _a_process_without_a_tracer_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer provider is for the life of a process; a test that sets one up leaves none to the next."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(setup, "_ours", [])


@pytest.fixture(autouse=True)
def _a_process_that_has_counted_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process keeps 64 pairs of batch and node apart, fewer than the tests have."""
    for name in ("shards", "limits", "circuits", "batches", "stalls", "_free"):
        monkeypatch.setattr(METRICS, name, {})
    monkeypatch.setattr(LIVE, "_running", {})  # the page of an application that has not been collected yet holds others
    monkeypatch.setattr(LIVE, "_ended", deque(maxlen=10))
