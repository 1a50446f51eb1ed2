"""Outcomes of an uninterrupted run, computed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness import finish, make_job, outcomes

Expected = Callable[[int], dict[int, tuple[Any, ...]]]


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """Return a function for the outcomes of a number of items in an uninterrupted run."""
    known: dict[int, dict[int, tuple[Any, ...]]] = {}

    def outcomes_of(items: int) -> dict[int, tuple[Any, ...]]:
        if items not in known:
            folder: Path = tmp_path_factory.mktemp("uninterrupted")
            make_job(folder, items)
            finish(folder)
            known[items] = outcomes(folder)
        return known[items]

    return outcomes_of
