"""flowrt's types in a user's project: correct code passes mypy --strict, each mistake is reported in its line."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = Path(__file__).parent / "typed_project"

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("typing"),  # the second test reuses the first one's cache of mypy
]

Check = Callable[[Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", name="check")
def _check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Runs mypy --strict in an environment with flowrt installed, whose types count only by `py.typed`."""
    home = tmp_path_factory.mktemp("user")
    venv.create(home / "venv", symlinks=True)
    (site,) = (home / "venv").glob("lib/python*/site-packages")
    (site / "flowrt").symlink_to(ROOT / "flowrt")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def check(file: Path) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--no-error-summary",
            "--hide-error-context",
        ]
        target = ["--python-executable", str(home / "venv" / "bin" / "python"), "--cache-dir", str(home / "cache")]
        return subprocess.run(
            [*command, *target, file.name], cwd=file.parent, capture_output=True, text=True, timeout=280, check=False
        )

    return check


def test_correct_project_passes_mypy_strict(check: Check) -> None:
    done = check(PROJECT / "right.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_marked_mistake_is_found_and_nothing_else(check: Check) -> None:
    expected = {
        number: found[1]
        for number, line in enumerate((PROJECT / "wrong.py").read_text().splitlines(), 1)
        if (found := re.search(r"  # ([a-z-]+)$", line))
    }
    done = check(PROJECT / "wrong.py")
    reported = re.findall(r"^wrong\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert {int(number): code for number, code in reported} == expected, done.stdout + done.stderr
