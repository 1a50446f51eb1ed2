"""Pytest plugin that takes one safeguard out before the tests run: `-p tests.ablation.plugin`, by FLOWRT_ABLATE."""

from __future__ import annotations

import os

from tests.ablation.safeguards import named


def pytest_sessionstart() -> None:
    """Take out the safeguard that the environment names."""
    named(os.environ["FLOWRT_ABLATE"]).take_out()
