"""The README is one screen, and then a tour."""

from __future__ import annotations

from tests.docs.test_code_blocks import ROOT

SCREEN, TOUR = 40, 150  # lines


def test_readme_begins_with_one_screen_and_a_bounded_tour() -> None:
    screen, _, rest = (ROOT / "README.md").read_text().partition("## A tour")
    tour, _, _ = rest.partition("## More")
    assert len(screen.splitlines()) <= SCREEN
    assert len(tour.splitlines()) <= TOUR
