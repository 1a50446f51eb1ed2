"""docs/files.md says what happens to each format and oddity."""

from __future__ import annotations

from tests.cli.io.files_table import PAGE, filled_page


def test_files_page_states_what_happens_to_each_input() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == filled_page(page), "run python -m tests.cli.io.files_table"
