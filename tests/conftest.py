"""Shared fixtures: event loops, virtual time, forked commands, a clean process state."""

from __future__ import annotations

import asyncio
import signal
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvloop
from opentelemetry import trace
from opentelemetry.util._once import Once

from flowrt.telemetry.live import LIVE
from flowrt.telemetry.metrics.store import METRICS
from flowrt.telemetry.tracing import setup
from flowrt.testing import run_on
from flowrt.whatif.virtual_clock_loop import VirtualLoop
from tests import examples
from tests.forked import Forks

pytest_plugins = ["flowrt.testing.plugin"]

_as_it_is = hypothesis.settings.get_profile(hypothesis.settings.get_current_profile_name())  # CI has its own profile
# no deadline, as in CI: machines are busy, and the first example may import numpy
hypothesis.settings.register_profile(
    "here", _as_it_is, max_examples=examples.examples(_as_it_is.max_examples), deadline=None
)
hypothesis.settings.load_profile("here")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job of a shell; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; flowrt rightly leaves an ignored hang-up alone
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


virtual_loop = partial(VirtualLoop, patience_s=30.0)

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "virtual": virtual_loop,
}

Run = Callable[[Coroutine[Any, Any, Any]], Any]


LOOP_NAMES = ("asyncio", "uvloop")


@pytest.fixture(params=LOOP_NAMES)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a real loop: one test with asyncio's, one with uvloop's."""
    factory = LOOPS[request.param]
    return lambda main: run_on(factory, main)


ON_ONE_PYTHON = (
    *("ablation/", "batch/test_tables.py", "bench/", "chaos/", "cli/commands/", "cli/io/", "cli/on_cloud/"),
    *("cli/options/test_journal.py", "dashboards/", "demo/", "docs/", "executors/on_ray/", "tools/"),
    *(
        "executors/test_conformance.py",
        "executors/test_worker_crashes.py",
        "executors/test_worker_lifecycle.py",
        "journal/test_kills.py",
        "journal/test_recovery.py",
        "loadtest/",
        "reporting/",
        "server/test_saturated.py",
    ),
    *("telemetry/metrics/test_exposition.py", "test_typing.py", "whatif/"),
)
"""Slow tests of commands and formats that behave the same on every Python."""


def pytest_configure() -> None:
    """Fail if a path of `ON_ONE_PYTHON` was moved: its tests would run on both, unnoticed."""
    missing = [path for path in ON_ONE_PYTHON if not (Path(__file__).parent / path).exists()]
    if missing:
        raise pytest.UsageError(f"tests/conftest.py: ON_ONE_PYTHON names {missing}, which do not exist")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that run on one Python only, and leave out what a second Python need not run."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).as_posix().startswith(ON_ONE_PYTHON):
            item.add_marker(pytest.mark.parts)
    if examples.SECOND_PYTHON:
        twice = {id(item) for item in items if _other_loop(item)}
        config.hook.pytest_deselected(items=[item for item in items if id(item) in twice])
        items[:] = [item for item in items if id(item) not in twice]


def _other_loop(item: pytest.Item) -> bool:
    """Whether a test that takes each loop is to take the other one: by a checksum, half of them run on each."""
    params = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    loop = next((each for each in params if isinstance(each, str) and each in LOOP_NAMES), None)
    return loop is not None and LOOP_NAMES[zlib.crc32(item.nodeid.replace(loop, "").encode()) % 2] != loop


COMMAND_MODULES = (
    *(f"flowrt.cli.commands.{name}" for name in ("bench", "demo", "journal", "report", "run", "run_job", "whatif")),
    *("flowrt.cli.commands.run_summary", "flowrt.cli.main", "flowrt.cli.options.report", "flowrt.loadtest.run"),
    *("flowrt.reporting.terminal", "flowrt.runtime.runtime", "flowrt.server", "uvloop"),
)
"""What the command imports on its way to a run: most of the CPU time of a test that starts it anew."""


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs the command in processes forked from one that has imported it."""
    server = Forks(*COMMAND_MODULES)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _reset_tracer_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the tracer provider, which OpenTelemetry lets a process set once."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(setup, "_ours", [])


@pytest.fixture(autouse=True)
def _reset_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the metrics and the live page: a process has 64 batch-node pairs, fewer than the tests use."""
    for name in ("shards", "limits", "circuits", "batches", "stalls", "_free"):
        monkeypatch.setattr(METRICS, name, {})
    monkeypatch.setattr(LIVE, "_running", {})  # an application not yet garbage-collected may still show others
    monkeypatch.setattr(LIVE, "_ended", deque(maxlen=10))
    monkeypatch.setattr(LIVE, "_failed", deque(maxlen=5))
