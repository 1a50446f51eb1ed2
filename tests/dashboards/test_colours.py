"""A cause of the ledger has the same colour on the live page, in the report and in Grafana."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dashboards.generator.files import FOLDER
from dashboards.generator.lint.findings import panels_of
from flowrt.attribution.ledger import CAUSES
from flowrt.reporting.palette import BOUND

PAGE = Path(__file__).parents[2] / "flowrt" / "server" / "static" / "page.css"
COLOURS = {cause: bound.color for cause, bound in BOUND.items()}


def test_every_cause_has_a_colour_of_its_own() -> None:
    assert set(CAUSES) <= set(COLOURS)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_live_page_uses_the_colours_of_the_report() -> None:
    assert sorted(re.findall(r"--c-(\w+): (#\w+);", PAGE.read_text())) == sorted(COLOURS.items())


@pytest.mark.parametrize("name", ["overview", "batch"])
def test_grafana_uses_the_colours_of_the_report(name: str) -> None:
    board = json.loads((FOLDER / "grafana" / "dashboards" / f"flowrt-{name}.json").read_text())
    (panel,) = [each for each in panels_of(board) if each["title"] == "What holds the batches back (% of wall time)"]
    colours = {
        override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
    }
    assert colours == COLOURS
