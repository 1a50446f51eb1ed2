"""`import flowrt` loads little and leaves the process as it was."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.release_check import WATCHED_IMPORT

ROOT = Path(__file__).parents[1]

HEAVY = {
    # needed only by a command, the server, an exporter, the demo or an input format
    *("uvloop", "uvicorn", "h11", "httptools", "starlette", "fastapi", "httpx", "aiohttp", "requests", "urllib3"),
    *("opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf", "grpc", "ray"),
    *("click", "rich", "pyarrow", "numpy", "pandas", "airportsdata", "nadoo_flow"),
    *("flowrt.cli", "flowrt.demo", "flowrt.runtime", "flowrt.server", "flowrt.runtime.signals"),
    *("flowrt.reporting.figures", "flowrt.reporting.html_page", "flowrt.reporting.summary", "flowrt.telemetry.live"),
    *("flowrt.recording", "flowrt.recording.recorder"),
    *("flowrt.journal.inspection", "flowrt.batch.speedup_sample"),
}


def python(code: str) -> Any:
    """Run code in a fresh interpreter with warnings as errors; return what it passes to `answer`."""
    code = f"import json, sys\ndef answer(what):\n    print(json.dumps(what))\n{code}"
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


def test_optional_modules_of_flowrt_exist() -> None:
    own = sorted(name for name in HEAVY if name.startswith("flowrt."))
    assert [name for name in own if importlib.util.find_spec(name) is None] == []


def test_import_loads_no_optional_module() -> None:
    imported = set(python(f"{DEPENDENCIES}import flowrt\nanswer(list(set(sys.modules) - theirs))"))
    assert "flowrt.batch" in imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize(
    ("name", "module"),
    [("run", "flowrt.runtime"), ("Runtime", "flowrt.runtime"), ("asgi_app", "flowrt.server")],
)
def test_lazy_name_is_imported_on_first_use(name: str, module: str) -> None:
    assert python(f"import flowrt\nflowrt.{name}\nanswer({module!r} in sys.modules)") is True


def test_lazy_names_are_listed_by_dir() -> None:
    code = """
import flowrt, flowrt.journal
answer([sorted({*flowrt.__all__} - {*dir(flowrt)}), sorted({*flowrt.journal.__all__} - {*dir(flowrt.journal)})])
"""
    assert python(code) == [[], []]


def test_journal_inspection_is_imported_on_first_use() -> None:
    code = """
from flowrt import journal
functions = [callable(getattr(journal, name)) for _ in range(2) for name in ("export", "records", "summary", "salvage")]
answer([all(functions), "flowrt.journal.inspection" in sys.modules])
"""
    assert python(code) == [True, True]


def test_batch_loads_no_optional_module() -> None:
    code = f"""{DEPENDENCIES}
import asyncio, flowrt
async def node(x):
    await asyncio.sleep(0)
    return x
results = asyncio.run(flowrt.BatchProcessor(node, item_timeout=5).batch(range(10)))
assert results.success_rate == 1.0 and results.report.total == 10
answer(list(set(sys.modules) - theirs))
"""
    assert set(python(code)) & HEAVY == set()


def test_batch_works_without_optional_packages() -> None:
    absent = sorted(name for name in HEAVY if not name.startswith("flowrt"))
    code = f"""
for name in {absent}:
    sys.modules[name] = None  # importing it is an ImportError
import asyncio, flowrt
async def node(x):
    return x
answer([r.output for r in asyncio.run(flowrt.BatchProcessor(node).batch(range(3)))])
"""
    assert python(code) == [0, 1, 2]


def test_run_falls_back_to_asyncio_without_uvloop() -> None:
    code = """
sys.modules["uvloop"] = None
import asyncio, flowrt
async def main():
    return type(asyncio.get_running_loop()).__module__
answer(flowrt.run(main(), log_level="ERROR"))
"""
    assert python(code).startswith("asyncio.")


def test_import_leaves_the_process_as_it_was() -> None:
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
answer([before, state()])
"""
    before, after = python(code)
    assert after == before


def test_import_opens_no_socket_starts_no_thread_and_writes_no_file() -> None:
    assert python(f"{DEPENDENCIES}{WATCHED_IMPORT}answer(seen)") == []


@pytest.mark.parametrize(("module", "name"), [("flowrt", "BatchProcesor"), ("flowrt.journal", "exprot")])
def test_unknown_name_is_an_attribute_error_that_names_it(module: str, name: str) -> None:
    code = f"""
import {module}
try:
    {module}.{name}
except AttributeError as exc:
    answer(str(exc))
"""
    assert python(code) == f"module {module!r} has no attribute {name!r}"


@pytest.mark.parametrize(("program", "handler"), [("/usr/bin/flowrt", "SIG_DFL"), ("job.py", "default_int_handler")])
def test_interrupt_while_the_command_imports_leaves_no_traceback(program: str, handler: str) -> None:
    code = f"""
sys.argv = [{program!r}]
import signal, flowrt
answer(signal.getsignal(signal.SIGINT) is signal.{handler})
"""
    assert python(code) is True


def test_runtime_loads_neither_protobuf_nor_uvicorn_before_they_are_needed() -> None:
    code = """
import asyncio, flowrt, flowrt.server
flowrt.server.TelemetryServer(0).stop()
uvicorn = "uvicorn" in sys.modules

async def main():
    async with flowrt.Runtime(otlp_endpoint="http://127.0.0.1:9", log_level="CRITICAL"):
        answer([uvicorn, "google.protobuf" in sys.modules])

asyncio.run(main())
"""
    assert python(code) == [False, False]
