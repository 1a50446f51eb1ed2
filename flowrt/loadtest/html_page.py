"""HTML page of a load test: conclusions, charts and table."""

from __future__ import annotations

from typing import Final

from flowrt._version import __version__
from flowrt.loadtest.charts import CHARTS, charts_of
from flowrt.loadtest.comparison import Verdict
from flowrt.loadtest.output import conclusions, environment, header, row, verdict_lines
from flowrt.loadtest.run import Run
from flowrt.reporting.charts import library
from flowrt.reporting.html_shell import document, embed, text

__all__ = ["page_of"]

_THEME: Final = '<button id="theme" type="button" title="Light or dark" aria-label="Light or dark">◐</button>'


def page_of(run: Run, node: str, source: str, verdict: Verdict | None = None, *, command: str = "") -> str:
    """The whole page.

    Args:
        run: The run.
        node: The node, as `MODULE:NODE`.
        source: The input's name.
        verdict: Comparison with a baseline, if there is one.
        command: The command that made it.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    script = library()
    charts = charts_of(run)
    data, places = embed(charts)
    sections = [
        f'<section class="chart"><h2>{title}</h2><p class="note">{note}</p>'
        f'<div class="plot" id="{text(places[name])}"></div></section>'
        for name, (title, note) in CHARTS.items()
        if name in charts
    ]
    where = environment()
    facts = [source, "open loop" if run.plan.open else "closed loop", where["measured_at"], where["python"]]
    question = "How many a second" if run.plan.open else "How many at once"
    inner = [
        f"<header><h1>{text(node)}</h1>",
        f'<p class="about">{"".join(f"<span>{text(each)}</span>" for each in (*facts, where["system"]))}</p>',
        f"{_THEME}</header><main>",
        _answer(question, run.best is not None, [*conclusions(run)]),
        *(
            []
            if verdict is None
            else [_answer("Beside the baseline", verdict.sign != "worse", [*verdict_lines(verdict)])]
        ),
        *sections,
        _table(run),
        *([f"<section><h2>Command</h2><pre><code>{text(command)}</code></pre></section>"] if command else []),
        f"</main><footer>flowrt {text(__version__)}</footer>",
    ]
    return document(f"{node}: flowrt bench", inner, data, script)


def _answer(title: str, good: bool, lines: list[str]) -> str:
    first, *others = lines
    points = "".join(f"<li>{text(each)}</li>" for each in others)
    kind = "good" if good else "bad"
    return f'<section class="answer {kind}"><h2>{title}</h2><p>{text(first)}</p><ul>{points}</ul></section>'


def _table(run: Run) -> str:
    head = "".join(f'<th class="n">{text(each)}</th>' for each in header(run)[:-1])
    body = []
    for measured in run.measurements.values():
        *figures, remarks = row(run, measured)
        cells = "".join(f'<td class="n">{text(each)}</td>' for each in figures)
        body.append(f"<tr>{cells}<td>{text(remarks)}</td></tr>")
    return (
        '<section><h2>Every setting</h2><div class="scroll">'
        f"<table><tr>{head}<th></th></tr>{''.join(body)}</table></div></section>"
    )
