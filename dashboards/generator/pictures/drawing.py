"""Drawing of a dashboard in a browser, with Grafana's components and the answers of a Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser

from dashboards.generator.lint.findings import Board
from dashboards.generator.pictures.answers import STEP_S, answers_of, marks_of
from dashboards.generator.pictures.components import bundle
from dashboards.generator.servers import Api

__all__ = ["Drawing", "recorded"]

_WIDTH: Final = 1500
_DRAWN_MS: Final = 60_000

_PAGE: Final = """<!doctype html>
<meta charset="utf-8">
<style>body {{ margin: 0; background: #111217; font-family: "DejaVu Sans", sans-serif }}</style>
<style>{style}</style>
<body></body>
<script>{code}</script>
"""


def recorded(board: Board, api: Api, start_s: float, end_s: float, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return a dashboard with the answers to its queries, as `Drawing.draw` takes it.

    Args:
        board: The dashboard.
        api: The Prometheus.
        start_s: Start of the time shown, in seconds since 1970.
        end_s: End of the time shown, in seconds since 1970.
        chosen: Values of the dashboard's variables that are not at `All`.
    """
    variables = [each for each in board.get("templating", {}).get("list", []) if each["type"] == "query"]
    return {
        "board": board,
        "answers": answers_of(board, api, start_s, end_s, chosen),
        "marks": marks_of(board, api, start_s, end_s),
        "from": start_s,
        "to": end_s,
        "step": STEP_S,
        "width": _WIDTH,
        "chosen": [
            (each.get("label", each["name"]), chosen.get(each["name"], "All").replace("|", " + ")) for each in variables
        ],
    }


class Drawing:
    """Page that draws one dashboard after the other: loading Grafana's components takes longer than drawing.

    Args:
        browser: The browser.
        folder: Folder for the page's files.
    """

    def __init__(self, browser: Browser, folder: Path) -> None:
        script, style = (text.replace("</script", "<\\/script") for text in bundle(folder))
        file = folder / "page.html"
        file.write_text(_PAGE.format(style=style, code=script))
        self._errors: list[str] = []
        self._page = browser.new_page(viewport={"width": _WIDTH, "height": 900}, timezone_id="UTC")
        self._page.set_default_timeout(_DRAWN_MS)
        self._page.on("pageerror", lambda error: self._errors.append(str(error)))
        self._page.goto(file.as_uri())

    def draw(self, picture: dict[str, Any], target: Path | None = None) -> dict[str, str]:
        """Draw one dashboard.

        Args:
            picture: What `recorded` returned.
            target: PNG file to write; None for none.

        Returns:
            Errors by panel, `page` for those outside of panels; empty if all panels were drawn.
        """
        self._errors.clear()
        found: dict[str, str] = self._page.evaluate("picture => window.DRAW(picture)", picture)
        if target is not None:
            self._page.screenshot(path=target, full_page=True)
        return found | ({"page": "\n".join(self._errors)} if self._errors else {})
