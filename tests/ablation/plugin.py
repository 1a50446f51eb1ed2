"""Pytest plugin that removes the safeguard of FLOWRT_ABLATE before the tests run: `-p tests.ablation.plugin`."""

from __future__ import annotations

import os

from tests.ablation.safeguards import named


def pytest_sessionstart() -> None:
    """Remove the safeguard that the environment names."""
    named(os.environ["FLOWRT_ABLATE"]).remove()
