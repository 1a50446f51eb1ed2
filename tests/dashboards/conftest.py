"""What the tests of dashboards share: the tools of Prometheus."""

from __future__ import annotations

import shutil

import pytest


def tool(name: str) -> str:
    """The path of a command that a Debian package brings."""
    found = shutil.which(name) or shutil.which(name, path="/usr/bin")
    if found is None:
        pytest.fail(f"{name} is neither on the PATH nor in /usr/bin: `make test` installs it")
    return found


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of `promtool`."""
    return tool("promtool")
