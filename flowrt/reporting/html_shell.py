"""HTML shell of every report: styles, scripts, and a content security policy that allows no other script."""

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
    """Return a self-contained page that loads nothing from the network.

    Args:
        title: Title of the page, as text.
        inner: Content of the body, as pieces of HTML.
        data: Data of the charts, from `embed`.
        library: Script that draws the charts, or None for a page without charts.
    """
    scripts = [*(() if library is None else (library,)), _asset("page.js")]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    # scripts run by hash only, and nothing is loaded: even an injected tag could not do anything
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
    """Return a value as escaped text, safe in elements and in quoted attributes.

    Args:
        value: The value to show. Lone surrogates become question marks.
    """
    return escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def embed(charts: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the charts as JSON that is safe inside a script element, and the ids of their elements by name.

    Args:
        charts: bokeh figures by name.
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
