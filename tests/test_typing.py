"""flowrt's types in a user's project: what is right passes mypy --strict, what is wrong is found where it is."""

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

pytestmark = pytest.mark.xdist_group("typing")  # the second takes from the first what mypy knows of the package

Check = Callable[[Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", name="check")
def _check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Runs mypy --strict for an environment that flowrt is installed in, where only `py.typed` opens its types."""
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
            [*command, *target, file.name], cwd=file.parent, capture_output=True, text=True, timeout=110, check=False
        )

    return check


def test_a_project_that_uses_the_api_as_it_is_meant_passes(check: Check) -> None:
    done = check(PROJECT / "right.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_mistake_is_found_in_its_line_and_nothing_else_is(check: Check) -> None:
    expected = {
        number: found[1]
        for number, line in enumerate((PROJECT / "wrong.py").read_text().splitlines(), 1)
        if (found := re.search(r"  # ([a-z-]+)$", line))
    }
    done = check(PROJECT / "wrong.py")
    told = re.findall(r"^wrong\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert {int(number): code for number, code in told} == expected, done.stdout + done.stderr
