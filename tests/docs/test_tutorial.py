"""The tutorial, followed word for word in an empty folder, prints what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.test_code_blocks import environment
from tools.tutorial import follow, matches


@pytest.mark.timeout(300)  # a dozen processes
def test_tutorial_prints_what_it_says(tmp_path: Path) -> None:
    follow(tmp_path, environment())


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [("a … c", "a bb c", True), ("a … c", "a bb d", False), ("a.c", "abc", False), ("a\n…", "a\nb\nc", True)],
)
def test_ellipsis_matches_any_text(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same
