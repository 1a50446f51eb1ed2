"""Fixtures that run the command as a separate process, in a temporary folder with a module of nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Forks

NODES = """
import asyncio, os, sys, time
from flowrt import BaseNode, NodeResult

async def echo(item):
    return item

async def slow(item):
    await asyncio.sleep(0.1)
    return item

async def waits(item):
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    return item

async def odd_fails(item):
    if item % 2:
        raise ValueError(f"{item} is odd")
    return item

async def touch(item):
    open("touched", "a").close()
    return item

def chatty(item):
    print("a word on stdout")
    os.write(1, b"another, past Python\\n")
    return item

async def nan(item):
    return float("nan")

async def big(item):
    return "x" * 100_000

class Double(BaseNode):
    def __init__(self):
        super().__init__(node_id="double")
    async def execute(self, node_context, workflow_context):
        return NodeResult(True, node_context.input_data * 2)
"""

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-P", "-m", "flowrt"]
Flowrt = Callable[..., "subprocess.CompletedProcess[str]"]


def environment() -> dict[str, str]:
    """Return the environment of the tests with this flowrt on the path and a fixed terminal."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "xterm"}


@pytest.fixture(name="command")
def _command() -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of `flowrt`."""
    return COMMAND, environment()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working directory with `nodes.py` in it."""
    (tmp_path / "nodes.py").write_text(NODES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def flowrt(folder: Path, forks: Forks) -> Flowrt:
    """Return a function that runs the command in the folder and waits for its end."""

    def call(*arguments: object, stdin: str = "", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        return forks.run(words, cwd=folder, env=environment(), stdin=stdin, timeout_s=timeout_s)

    return call


@pytest.fixture(name="lines_of")
def _lines_of() -> Callable[[str | Path], list[dict[str, Any]]]:
    """Return a function that reads the output's lines, sorted by index."""

    def read(text: str | Path) -> list[dict[str, Any]]:
        raw = text.read_text() if isinstance(text, Path) else text
        return sorted((json.loads(line) for line in raw.splitlines()), key=lambda line: line["index"])

    return read
