"""Closed pipes and a blocked stderr: the run ends or goes on, and no finished item runs again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowrt.journal import records
from tests.chaos.harness import CONCURRENCY, FULL, WORDS, executions, finish, make_job, outcomes

ROOT = Path(__file__).resolve().parents[2]
Expected = Callable[[int], dict[int, tuple[Any, ...]]]
pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.parts]  # bash and head
TO_PIPE = [word if word != "out.jsonl" else "-" for word in WORDS]


def shell(folder: Path, script: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash with `$flowrt` in it, and return the exit codes of its pipeline."""
    command = f"{sys.executable} -P -m flowrt run"
    return subprocess.run(
        ["bash", "-c", f"{script}; echo ${{PIPESTATUS[0]}} > code"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "flowrt": command},
        capture_output=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("taken_bytes", [0, 1, 10_000, 100_000, 400_000] if FULL else [1, 100_000])
def test_closed_pipe_costs_at_most_the_items_in_flight(taken_bytes: int, tmp_path: Path, expected: Expected) -> None:
    items = 600
    make_job(tmp_path, items)
    done = shell(tmp_path, f"$flowrt {' '.join(TO_PIPE)} | head -c {taken_bytes}")
    assert (tmp_path / "code").read_text().strip() == "1"
    assert b"Traceback" not in done.stderr
    kept = {result.index for result in records(tmp_path / "run.journal")}
    whole_lines = done.stdout[: done.stdout.rfind(b"\n") + 1].splitlines()
    seen = {line["index"] for line in map(json.loads, whole_lines) if line["attempts"]}
    assert seen <= kept
    assert len(kept) < items - 1
    finish(tmp_path)
    assert outcomes(tmp_path) == expected(items)
    assert items - 1 <= executions(tmp_path) <= items - 1 + CONCURRENCY


@pytest.mark.parametrize("end", ["2>&-", "2>/dev/full", "2> >(exec 0<&-; touch left)"])
@pytest.mark.parametrize("more", ["", "--report page.html", "--log-format console", "--metrics-port 0"])
def test_broken_stderr_does_not_change_the_run(end: str, more: str, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import asyncio, os\n"
        "async def node(x):\n"
        "    while x == 0 and os.path.exists('wait') and not os.path.exists('left'): await asyncio.sleep(0.01)\n"
        "    return x\n"
    )
    (tmp_path / "in.jsonl").write_text("0\n1\n")
    if "left" in end:
        (tmp_path / "wait").touch()
    done = shell(tmp_path, f"$flowrt job:node in.jsonl -o out.jsonl {more} {end}")
    assert (tmp_path / "code").read_text().strip() == "0", done.stderr
    assert (tmp_path / "out.jsonl").read_text().count('"status": "ok"') == 2
    assert (tmp_path / "page.html").exists() is ("page" in more)


@pytest.mark.parametrize("end", ["2>&-", "2>/dev/full"])
def test_blocked_stderr_does_not_change_the_run(end: str, tmp_path: Path, expected: Expected) -> None:
    items = 60
    make_job(tmp_path, items)
    shell(tmp_path, f"$flowrt {' '.join(WORDS)} {end}")
    assert (tmp_path / "code").read_text().strip() == "1"  # some items fail
    assert outcomes(tmp_path) == expected(items)
    assert executions(tmp_path) == items - 1
