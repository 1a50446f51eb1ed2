"""What matters stands first on a dashboard, and the same quantity looks the same on all of them."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from dashboards.generator.files import FOLDER
from dashboards.generator.lint.findings import panels_of

BOARDS = {path.stem: json.loads(path.read_text()) for path in (FOLDER / "grafana" / "dashboards").glob("*.json")}


@pytest.mark.parametrize("name", ["overview", "batch", "small", "node"])
def test_failures_are_in_the_top_row(name: str) -> None:
    top = [panel for panel in panels_of(BOARDS[f"flowrt-{name}"]) if panel["gridPos"]["y"] == 0]
    first_two = [panel["title"] for panel in sorted(top, key=lambda panel: panel["gridPos"]["x"])[:2]]
    assert "Items failing (%, now)" in first_two


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_panels_fill_rows_without_overlap(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels_of(BOARDS[name]):
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert 0 <= x < 24, panel["title"]
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_series_of_one_name_have_one_colour() -> None:
    colours = defaultdict(set)
    for board in BOARDS.values():
        for panel in panels_of(board):
            for override in panel.get("fieldConfig", {}).get("overrides", []):
                for field in override["properties"]:
                    if field["id"] == "color" and "fixedColor" in field["value"]:
                        colours[override["matcher"]["options"]].add(field["value"]["fixedColor"])
    assert len(colours) > 20
    assert {name: found for name, found in colours.items() if len(found) > 1} == {}
