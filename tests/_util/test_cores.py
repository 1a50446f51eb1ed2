"""Cores that the process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowrt._util.cores import usable_cores


@pytest.mark.parametrize(
    ("quota", "expected"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_quota_of_a_container_bounds_the_cores(tmp_path: Path, quota: str, expected: int | None) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(f"{quota}\n")
    own = len(os.sched_getaffinity(0))
    assert usable_cores(file) == (expected or own)
    assert usable_cores(tmp_path / "missing") == own
