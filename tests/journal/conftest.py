"""Fixtures of the journal's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Path of a journal that does not exist yet."""
    return tmp_path / "run.journal"
