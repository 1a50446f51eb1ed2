"""Picture of a run in the README."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "demo.svg"


def shown_in_picture() -> str:
    """Text of the picture."""
    root = ET.fromstring(PICTURE.read_text())  # noqa: S314  # of this repository
    return "".join(root.itertext()).replace("\xa0", " ")


def test_picture_matches_the_demo_and_is_in_the_readme() -> None:
    shown = shown_in_picture()
    for part in (
        "$ flowrt demo",
        "in flight",
        "/metrics",
        "p99",
        "speedup, measured",
        "speedup, claimed",
        "airports.jsonl",
    ):
        assert part in shown
    assert "(docs/demo.svg)" in (ROOT / "README.md").read_text()


def test_picture_gives_one_advice_as_the_explanation_does() -> None:
    shown = re.sub(r"[\s│]+", " ", shown_in_picture())
    _, _, explanation = shown.partition("bound by ")
    causes = explanation.partition(" output ")[0].split("; ")
    advised = [cause for cause in causes if ": " in cause]
    assert len(advised) == 1, "docs/demo.svg shows an older demo: python -m tools.picture"


def test_picture_loads_no_external_resource() -> None:
    text = PICTURE.read_text()
    assert set(re.findall(r"https?://([^/:\"]+)", text)) == {
        "www.w3.org",
        "127.0.0.1",
    }  # the namespace, and a visible text
    for loader in ("@font-face", "@import", "href", "url(http", "<script", "<image"):
        assert loader not in text
