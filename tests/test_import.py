"""What importing flowrt does to a process: next to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = {
    # what only a command, a server, an exporter, a demo or an input format needs
    *("uvloop", "uvicorn", "h11", "httptools", "starlette", "fastapi", "httpx", "aiohttp", "requests", "urllib3"),
    *("opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf", "grpc", "ray"),
    *("click", "rich", "pyarrow", "numpy", "pandas", "airportsdata", "nadoo_flow"),
    *("flowrt.cli", "flowrt.demo", "flowrt.runtime", "flowrt.server", "flowrt.runtime.signals", "flowrt.summary"),
    *("flowrt.reporting", "flowrt.recording", "flowrt.recording.recorder", "flowrt.telemetry.live"),
    *("flowrt.journal.inspection", "flowrt.sampling", "flowrt.batch.speedup_sample"),
}


def python(code: str) -> Any:
    """Run code in a fresh interpreter, with warnings as errors; what it gives to `tell` comes back."""
    code = f"import json, sys\ndef tell(what):\n    print(json.dumps(what))\n{code}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


DEPENDENCIES = """
import opentelemetry.trace, prometheus_client, structlog  # structlog imports rich by itself, where there is one
theirs = set(sys.modules)
"""


def test_it_imports_nothing_that_only_some_of_its_users_need() -> None:
    imported = set(python(f"{DEPENDENCIES}import flowrt\ntell(list(set(sys.modules) - theirs))"))
    assert "flowrt.batch" in imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize(
    ("name", "module"),
    [("run", "flowrt.runtime"), ("Runtime", "flowrt.runtime"), ("asgi_app", "flowrt.server")],
)
def test_what_needs_more_is_imported_when_it_is_asked_for(name: str, module: str) -> None:
    assert python(f"import flowrt\nflowrt.{name}\ntell({module!r} in sys.modules)") is True


def test_names_that_are_imported_later_are_listed_before() -> None:
    code = """
import flowrt, flowrt.journal
tell([sorted({*flowrt.__all__} - {*dir(flowrt)}), sorted({*flowrt.journal.__all__} - {*dir(flowrt.journal)})])
"""
    assert python(code) == [[], []]


def test_looking_into_a_journal_is_imported_when_it_is_asked_for() -> None:
    code = """
from flowrt import journal
functions = [callable(getattr(journal, name)) for _ in range(2) for name in ("export", "records", "summary", "salvage")]
tell([all(functions), "flowrt.journal.inspection" in sys.modules])
"""
    assert python(code) == [True, True]


def test_a_batch_imports_none_of_it_either() -> None:
    code = f"""{DEPENDENCIES}
import asyncio, flowrt
async def node(x):
    await asyncio.sleep(0)
    return x
results = asyncio.run(flowrt.BatchProcessor(node, item_timeout=5).batch(range(10)))
assert results.success_rate == 1.0 and results.report.total == 10
tell(list(set(sys.modules) - theirs))
"""
    assert set(python(code)) & HEAVY == set()


def test_it_works_where_none_of_it_is_installed() -> None:
    absent = sorted(name for name in HEAVY if not name.startswith("flowrt"))
    code = f"""
for name in {absent}:
    sys.modules[name] = None  # importing it is an ImportError
import asyncio, flowrt
async def node(x):
    return x
tell([r.output for r in asyncio.run(flowrt.BatchProcessor(node).batch(range(3)))])
"""
    assert python(code) == [0, 1, 2]


def test_run_falls_back_to_asyncio_where_uvloop_is_not_installed() -> None:
    code = """
sys.modules["uvloop"] = None
import asyncio, flowrt
async def main():
    return type(asyncio.get_running_loop()).__module__
tell(flowrt.run(main(), log_level="ERROR"))
"""
    assert python(code).startswith("asyncio.")


def test_it_leaves_the_process_as_it_was() -> None:
    code = """
import asyncio, logging, signal, sys, threading, warnings
from prometheus_client import REGISTRY
def state():
    return [
        threading.active_count(),
        [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)],
        [str(handler) for handler in logging.getLogger().handlers],
        logging.getLogger().level,
        sorted(family.name for family in REGISTRY.collect()),
        [str(each) for each in (sys.excepthook, sys.unraisablehook, threading.excepthook)],
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        sys.path,
        len(warnings.filters),
    ]
before = state()
import flowrt
tell([before, state()])
"""
    before, after = python(code)
    assert after == before


@pytest.mark.parametrize(("module", "name"), [("flowrt", "BatchProcesor"), ("flowrt.journal", "exprot")])
def test_an_unknown_name_is_an_attribute_error_that_names_it(module: str, name: str) -> None:
    code = f"""
import {module}
try:
    {module}.{name}
except AttributeError as exc:
    tell(str(exc))
"""
    assert python(code) == f"module {module!r} has no attribute {name!r}"
