"""Fixtures of the dashboards' tests."""

from __future__ import annotations

import shutil

import pytest


def tool(name: str) -> str:
    """Return the path of a command of a Debian package."""
    found = shutil.which(name) or shutil.which(name, path="/usr/bin")
    if found is None:
        pytest.fail(f"{name} is neither on the PATH nor in /usr/bin: `make test` installs it")
    return found


@pytest.fixture(scope="session")
def promtool() -> str:
    """Return the path of `promtool`."""
    return tool("promtool")
