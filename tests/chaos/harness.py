"""Job of the chaos suite, a process that may be killed, and the final checks."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.chaos import child

FULL = os.environ.get("FLOWRT_CHAOS") == "full"
"""True for the whole suite (`make chaos`), False for the short one (`make test`)."""

KILLS = int(os.environ.get("FLOWRT_KILLS", "200" if FULL else "5"))
SEED = os.environ.get("FLOWRT_SEED", "7")
CONCURRENCY = 8

JOB = """
import asyncio, os, random

log = os.open("ran", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
write = os.write

async def node(item):
    write(log, b"%d\\n" % item)
    await asyncio.sleep(random.random() * 0.004)
    if item % 17 == 5:
        raise ValueError(f"{item} is not liked")
    return {"item": item, "text": "é\\n" * (item * 37 % 300)}
"""

WORDS = ["job:node", "in.jsonl", "-o", "out.jsonl", "--journal", "run.journal", "--max-concurrency", str(CONCURRENCY)]

_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(["tests.chaos.child"])


def make_job(folder: Path, items: int) -> None:
    """Create a folder with a node and an input with one invalid line."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.py").write_text(JOB)
    lines = [str(item) for item in range(items)]
    lines[items // 2] = "{"
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")


def start(folder: Path, words: list[str] | None = None, die_at: int = 0, when: child.When = "after") -> BaseProcess:
    """Start the command in its folder."""
    process = _fork.Process(target=child.run, args=(str(folder), words or WORDS, die_at, when))
    process.start()
    return process


def code_of(process: BaseProcess) -> int:
    """Wait for the process and return its exit code, negative for a signal."""
    process.join(60)
    code = process.exitcode
    assert code is not None, "it hangs"
    process.close()
    return code


def finish(folder: Path) -> None:
    """Run to the end."""
    code = code_of(start(folder))
    assert code == 1, (code, said(folder))  # some items fail, each time the same


def said(folder: Path) -> str:
    path = folder / "said"
    return path.read_text() if path.exists() else ""


def executions(folder: Path) -> int:
    path = folder / "ran"
    return len(path.read_text().split()) if path.exists() else 0


def outcomes(folder: Path) -> dict[int, tuple[Any, ...]]:
    """Return the output of each item without times; assert that no index is there twice."""
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    found = {
        line["index"]: (line["status"], line["output"], line["error"], line["error_type"], line["attempts"])
        for line in lines
    }
    assert len(found) == len(lines), "an index is there twice"
    return found


def check_end(folder: Path, expected: dict[int, tuple[Any, ...]], kills: int) -> None:
    """Assert that the output equals that of an uninterrupted run, and that no more items ran than necessary."""
    assert outcomes(folder) == expected
    runnable = len(expected) - 1  # one line is invalid
    assert runnable <= executions(folder) <= runnable + CONCURRENCY * kills
    assert "Traceback" not in said(folder), said(folder)
    assert not (folder / "out.jsonl.partial").exists()
    for name in ("out.jsonl", "run.journal"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600


def chance() -> random.Random:
    return random.Random(SEED)  # noqa: S311  # a moment, not a secret
