"""Generated parts of the documentation are up to date."""

from __future__ import annotations

import pytest

from tools.fill_docs import PAGES, PARTS, ROOT, filled


@pytest.mark.parametrize(("file", "name"), PARTS)
def test_part_is_up_to_date(file: str, name: str) -> None:
    page = (ROOT / file).read_text()
    assert filled(page, name, PARTS[file, name]()) == page, "run: make docs"


@pytest.mark.parametrize("file", PAGES)
def test_page_is_up_to_date(file: str) -> None:
    assert (ROOT / file).read_text() == PAGES[file](), "run: make docs"
