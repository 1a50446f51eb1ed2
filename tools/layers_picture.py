"""Draws the layers of the package from the import contract in pyproject.toml, for docs/architecture.md.

The picture is generated, so it cannot disagree with what import-linter enforces.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

__all__ = ["draw"]

ROOT: Final = Path(__file__).parents[1]
WIDTH, ROW, GAP, MARGIN = 880, 50, 10, 12

PURPOSE: Final = {
    "cli": "the command flowrt",
    "testing": "helpers for tests of nodes",
    "demo": "the demo's nodes, data and service",
    "whatif": "replays a recording under other settings, in virtual time",
    "remote": "runs attempts in a worker process",
    "nodes": "map, filter, reduce, race",
    "loadtest": "how many items at once?",
    "runtime": "uvloop, signals, set-up",
    "batch": "BatchProcessor: settings, assembly of a run, results",
    "server": "/metrics, probes, live page",
    "reporting": "reports, charts, notebooks",
    "telemetry": "metrics, spans, logs, live view",
    "recording": "attempt times in Parquet",
    "engine": "the way of an item: slots, attempts, cancellation, the Instrument seam",
    "policies": "retry, rates, breaker",
    "journal": "crash-safe results",
    "executors": "loop, threads",
    "eventloop": "heartbeat, GC tuning",
    "model": "nodes, items, batches, results: data",
    "attribution": "ledger, stalls, speedup: arithmetic on the wall time",
    "_util": "clock, quantiles, validation, atomic files",
    "errors": "the exceptions",
}
"""One line per package; a package of the contract that is missing here is an error."""


def layers() -> list[list[str]]:
    """The rows of the contract "Imports point down", from the top."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (contract,) = [each for each in contracts if each["name"] == "Imports point down"]
    return [re.split(r"\s*[:|]\s*", row) for row in contract["layers"]]


def draw() -> str:
    """The picture as SVG."""
    rows = layers()
    height = MARGIN * 2 + len(rows) * (ROW + GAP) - GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        "<title>The layers of flowrt: imports point down only</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for place, names in enumerate(rows):
        top = MARGIN + place * (ROW + GAP)
        width = (WIDTH - 2 * MARGIN - GAP * (len(names) - 1)) / len(names)
        fill = {"engine": "#d7e8fb", "batch": "#e4f3e4"}.get(names[0], "#f2f4f7")
        for column, name in enumerate(names):
            left = MARGIN + column * (width + GAP)
            middle = left + width / 2
            label = 'text-anchor="middle" font-size='
            box = f'x="{left:g}" y="{top}" width="{width:g}" height="{ROW}"'
            parts += [
                f'<rect {box} rx="6" fill="{fill}" stroke="#8a94a3"/>',
                f'<text x="{middle:g}" y="{top + 21}" {label}"15" font-weight="bold">{escape(name)}</text>',
                f'<text x="{middle:g}" y="{top + 39}" {label}"13" fill="#46505e">{escape(PURPOSE[name])}</text>',
            ]
    return "\n".join([*parts, "</svg>", ""])
