"""What every page has around its content: styles, scripts and a policy under which nothing else runs."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from html import escape
from importlib import resources
from typing import Any

__all__ = ["document", "embed", "text"]


def document(title: str, inner: Iterable[str], data: str, library: str | None) -> str:
    """A whole page that holds all it needs and asks nobody for anything.

    Args:
        title: In the browser's tab.
        inner: What the body has, as HTML.
        data: The charts' data, from `embed`.
        library: The script that draws the charts, or None where there are none.
    """
    scripts = [*(() if library is None else (library,)), _asset("page.js")]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    # only these very scripts run, and nothing is loaded from anywhere, whatever a text in the page says
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{text(title)}</title>",
            f"<style>{_asset('page.css')}</style></head><body>",
            *inner,
            f'<script type="application/json" id="charts">{data}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>",
        ]
    )


def text(value: object) -> str:
    """Text that can stand anywhere in a page, whatever it holds.

    Args:
        value: What to show.
    """
    return escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def embed(charts: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The charts as JSON that no text in them can break out of, and the names of their places.

    Args:
        charts: Figures of bokeh by their names.
    """
    if not charts:
        return "null", {}
    from bokeh.document import Document  # noqa: PLC0415  # an extra
    from bokeh.embed.util import standalone_docs_json_and_render_items  # noqa: PLC0415  # an extra

    whole = Document()
    for chart in charts.values():
        whole.add_root(chart)
    docs, (item,) = standalone_docs_json_and_render_items(whole)
    roots = item.roots.to_json()
    places = {name: roots[chart.id] for name, chart in charts.items()}
    made = json.dumps({"docs": docs, "items": [item.to_json()]}, separators=(",", ":"))
    return made.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"), places


def _asset(name: str) -> str:
    return resources.files("flowrt.reporting").joinpath(name).read_text("utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
