"""The generated parts of the documentation are what the code and the recorded figures say."""

from __future__ import annotations

import pytest

from tools.fill_docs import PARTS, ROOT, filled


@pytest.mark.parametrize(("file", "name"), PARTS)
def test_part_is_up_to_date(file: str, name: str) -> None:
    page = (ROOT / file).read_text()
    assert filled(page, name, PARTS[file, name]()) == page, "run: make docs"
