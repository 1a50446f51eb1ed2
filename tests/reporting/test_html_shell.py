"""HTML shell: data stays data."""

from __future__ import annotations

import json

from bokeh.plotting import figure

from flowrt.reporting.html_shell import embed, text

from .conftest import HOSTILE


def test_chart_text_cannot_leave_the_script_element() -> None:
    made, places = embed({"one": figure(title=f"{HOSTILE} \u2028", width=100, height=100)})
    assert "<" not in made
    assert "\u2028" not in made
    assert HOSTILE in json.dumps(json.loads(made), ensure_ascii=False).replace('\\"', '"')
    assert list(places) == ["one"]


def test_text_escapes_markup_and_surrogates() -> None:
    assert text('<b> & "quoted" \ud800') == "&lt;b&gt; &amp; &quot;quoted&quot; ?"
