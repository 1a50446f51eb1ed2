"""Pinned versions of the packages that the tests install."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.lock import ROOT, groups

FILES = sorted((ROOT / "constraints").glob("python*.txt"))


def required(python: str) -> Iterator[str]:
    """Names of the packages that the extra `all` and the groups of the tests need on a Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    lines = [*project["project"]["dependencies"], *extras["all"]]
    lines += [line for name in groups() for line in project["dependency-groups"][name]]
    while lines:
        requirement = Requirement(lines.pop())
        if requirement.name == "flowrt":  # an extra that consists of others
            lines += [line for extra in requirement.extras for line in extras[extra]]
        elif requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            yield canonicalize_name(requirement.name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_lock_pins_every_package_that_the_project_names(path: Path) -> None:
    pins = {canonicalize_name(line.partition("==")[0]) for line in path.read_text("utf-8").splitlines() if "==" in line}
    names = set(required(path.stem.removeprefix("python")))
    assert {"click", "joblib", "rich", "ruff"} <= names
    assert names - pins == set(), "make lock"


def test_lock_has_a_file_for_each_python_of_the_tests() -> None:
    assert [path.stem for path in FILES] == ["python3.11", "python3.13"]
