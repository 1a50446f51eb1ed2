"""flowrt's types in a user's project, by mypy --strict and pyright: correct code passes, each mistake is reported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = Path(__file__).parent / "typed_project"

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("typing"),  # they share an environment and mypy's cache
]

Reports = dict[str, dict[int, set[str]]]
"""Rules that a type checker reports, by file and line."""


@pytest.fixture(scope="module", name="home")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an environment in which flowrt is installed, whose types count only by `py.typed`."""
    home = tmp_path_factory.mktemp("user")
    venv.create(home / "venv", symlinks=True)
    (site,) = (home / "venv").glob("lib/python*/site-packages")
    (site / "flowrt").symlink_to(ROOT / "flowrt")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home


@pytest.fixture(scope="module", name="mypy")
def _mypy(home: Path) -> Reports:
    """What mypy --strict reports."""
    options = ("--strict", "--config-file=", "--no-error-summary", "--hide-error-context")
    environment = ("--python-executable", home / "venv" / "bin" / "python", "--cache-dir", home / "cache")
    done = checked(sys.executable, "-m", "mypy", *options, *environment, "right.py", "wrong.py")
    reports = re.findall(r"^(\w+\.py):(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert reports, done.stdout + done.stderr
    return by_line(reports)


@pytest.fixture(scope="module", name="pyright")
def _pyright(home: Path) -> Reports:
    """What pyright reports. It comes with the package from PyPI, and runs on the Node.js of the dashboards' tests."""
    python = home / "venv" / "bin" / "python"
    done = checked(sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", python, "right.py", "wrong.py")
    reports = json.loads(done.stdout)["generalDiagnostics"]
    return by_line(
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each.get("rule", each["message"]))
        for each in reports
    )


def checked(*command: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    env.pop("PYTHONPATH", None)
    return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=280, check=False)


def by_line(reports: Iterable[tuple[str, int | str, str]]) -> Reports:
    found: Reports = defaultdict(lambda: defaultdict(set))
    for file, line, rule in reports:
        found[file][int(line)].add(rule)
    return found


def marked(column: int) -> dict[int, str]:
    """The rules that are expected in wrong.py, by line.

    Args:
        column: 0 for mypy's, 1 for pyright's.
    """
    lines = enumerate((PROJECT / "wrong.py").read_text().splitlines(), 1)
    found = {number: mark.groups() for number, line in lines if (mark := re.search(r"  # (\S+) \| (\S+)$", line))}
    return {number: rules[column] for number, rules in found.items() if rules[column] != "-"}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_correct_project_passes_the_type_checker(checker: str, request: pytest.FixtureRequest) -> None:
    reports: Reports = request.getfixturevalue(checker)
    assert reports["right.py"] == {}


@pytest.mark.parametrize(("checker", "column"), [("mypy", 0), ("pyright", 1)])
def test_every_marked_mistake_is_found_and_nothing_else(
    checker: str, column: int, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(checker)["wrong.py"]
    expected = marked(column)
    assert len(expected) > 30
    assert found.keys() ^ expected.keys() == set()
    assert {line: found[line] for line, rule in expected.items() if rule not in found[line]} == {}
