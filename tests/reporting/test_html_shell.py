"""What goes into a page is data there, and stays it."""

from __future__ import annotations

import json

from bokeh.plotting import figure

from flowrt.reporting.html_shell import embed, text

from .conftest import HOSTILE


def test_no_text_of_a_chart_breaks_out_of_the_data() -> None:
    made, places = embed({"one": figure(title=f"{HOSTILE} \u2028", width=100, height=100)})
    assert "<" not in made
    assert "\u2028" not in made
    assert HOSTILE in json.dumps(json.loads(made), ensure_ascii=False).replace('\\"', '"')
    assert list(places) == ["one"]


def test_a_text_is_no_markup_whatever_it_holds() -> None:
    assert text('<b> & "quoted" \ud800') == "&lt;b&gt; &amp; &quot;quoted&quot; ?"
