"""Drawing of a dashboard in a browser, with Grafana's components and the answers of a Prometheus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser

from dashboards.generator.lint.findings import Board
from dashboards.generator.pictures.answers import answers_of, marks_of
from dashboards.generator.servers import Api

__all__ = ["draw", "recorded"]

_WIDTH: Final = 1500
_DRAWN_MS: Final = 60_000

_PAGE: Final = """<!doctype html>
<meta charset="utf-8">
<style>body {{ margin: 0; background: #111217; font-family: "DejaVu Sans", sans-serif }}</style>
<style>{style}</style>
<div id="root"></div>
<script>window.PICTURE = {data};</script>
<script>{code}</script>
"""


def recorded(board: Board, api: Api, start_s: float, end_s: float, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return a dashboard with the answers to its queries, as `draw` takes it.

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
        "width": _WIDTH,
        "chosen": [(each.get("label", each["name"]), chosen.get(each["name"], "All")) for each in variables],
    }


def draw(picture: dict[str, Any], browser: Browser, code: tuple[str, str], page_file: Path) -> dict[str, str]:
    """Draw one dashboard and write `page_file` with the suffix `.png` beside the page.

    Args:
        picture: What `recorded` returned.
        browser: The browser.
        code: Script and style sheet, from `bundle`.
        page_file: File for the page.

    Returns:
        Errors by panel, `page` for those outside of panels; empty if all panels were drawn.
    """
    script, style = (text.replace("</script", "<\\/script") for text in code)
    data = json.dumps(picture).replace("</", "<\\/")
    page_file.write_text(_PAGE.format(data=data, style=style, code=script))
    page = browser.new_page(viewport={"width": _WIDTH, "height": 900}, timezone_id="UTC")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(page_file.as_uri())
    page.wait_for_function("window.DRAWN", timeout=_DRAWN_MS)
    page.screenshot(path=page_file.with_suffix(".png"), full_page=True)
    found: dict[str, str] = page.evaluate("window.PROBLEMS")
    page.close()
    return found | ({"page": "\n".join(errors)} if errors else {})
