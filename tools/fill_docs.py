"""Fills the generated parts of the documentation: `make docs`; a test checks that they are up to date."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from bench.pages import overhead_markdown, prices_markdown, read_results, results_markdown
from flowrt.telemetry.metrics.catalogue import as_markdown
from tests.executors import differences
from tools import layers_picture, public_api

ROOT = Path(__file__).parents[1]
PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("docs/telemetry.md", "metrics"): as_markdown,
    ("docs/tracing.md", "prices"): prices_markdown,
    ("docs/scaling.md", "differences"): differences.as_markdown,
    ("README.md", "overhead"): overhead_markdown,
    ("docs/concepts/telemetry-cost.md", "overhead"): overhead_markdown,
}


PAGES: dict[str, Callable[[], str]] = {
    "bench/RESULTS.md": lambda: results_markdown(read_results()),
    "docs/pictures/layers.svg": layers_picture.draw,
    "tests/public_api.txt": public_api.describe,
}
"""Files that are generated as a whole."""


def filled(page: str, name: str, content: str) -> str:
    """The page with what stands between the part's marks replaced."""
    marked = re.compile(rf"(<!-- {name}: begin[^>]*-->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    text, count = marked.subn(lambda found: f"{found[1]}{content}\n{found[2]}", page)
    if count != 1:
        raise ValueError(f"the page has {count} parts named {name!r}, not one")
    return text


if __name__ == "__main__":
    for (file, name), make in PARTS.items():
        path = ROOT / file
        path.write_text(filled(path.read_text(), name, make()))
    for file, write in PAGES.items():
        (ROOT / file).write_text(write())
