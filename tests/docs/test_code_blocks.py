"""Every code block of the documentation runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.forked import Forks
from tools.tutorial import FENCE

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES.remove(ROOT / "docs" / "tutorial.md")  # its blocks build on each other: test_tutorial
BLOCKS = [
    pytest.param(language, code, id=f"{page.relative_to(ROOT)}:{page.read_text()[: found.start()].count(chr(10)) + 1}")
    for page in PAGES
    for found in FENCE.finditer(page.read_text())
    for language, code in [found.groups()]
]


def environment() -> dict[str, str]:
    """The environment in which a reader follows the page: flowrt importable, its command on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}


@pytest.fixture(scope="module")
def scripts() -> Iterator[Forks]:
    """Runs Python blocks in processes forked from one that has imported flowrt."""
    server = Forks("flowrt.runtime.runtime", "flowrt.server", "flowrt.testing")
    yield server
    server.close()


def command_of(language: str, code: str) -> list[str]:
    """Return the command that runs a code block."""
    if language != "sh":
        raise AssertionError(f"a code block is python, sh, console or yaml, not {language!r}")
    # running make's targets would run this very test, so only check that they exist
    code = re.sub(r"^make ", f"make -n -C {ROOT} ", code, flags=re.MULTILINE)
    if shutil.which("flowrt", path=environment()["PATH"]) is None:
        code = re.sub(r"^flowrt ", f"{sys.executable} -m flowrt ", code, flags=re.MULTILINE)
    code = re.sub(r"\bpython ", f"{sys.executable} ", code)
    return ["bash", "-euo", "pipefail", "-c", code]


def check_options(transcript: str) -> None:
    """Check the commands of a transcript over files that do not exist here: they have the options that it uses."""
    for line in transcript.splitlines():
        if found := re.match(r"\$ flowrt ([a-z]+) (.*)", line):
            done = subprocess.run(
                [sys.executable, "-m", "flowrt", found[1], "--help"],
                cwd=ROOT,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            unknown = [option for option in re.findall(r"(?<!\S)--[a-z-]+", found[2]) if option not in done.stdout]
            assert (done.returncode, unknown) == (0, []), line


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_block_runs(language: str, code: str, tmp_path: Path, scripts: Forks) -> None:
    if language == "yaml":
        assert all(yaml.safe_load_all(code))
        return
    if language == "console":
        check_options(code)
        return
    if language == "python":
        script = tmp_path / "block.py"
        script.write_text(code)
        done = scripts.run([str(script)], cwd=tmp_path, env=environment(), stdin="", timeout_s=280)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    done = subprocess.run(
        command_of(language, code),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
