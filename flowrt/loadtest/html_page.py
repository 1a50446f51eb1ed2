"""A run as one HTML page with charts, of the same make as a report's."""

from __future__ import annotations

from typing import Any, Final

from flowrt._version import __version__
from flowrt.loadtest.comparison import Verdict
from flowrt.loadtest.measurement import Latencies
from flowrt.loadtest.output import conclusions, heads, row, verdict_lines
from flowrt.loadtest.search import Run
from flowrt.reporting.charts import library
from flowrt.reporting.html_shell import document, embed, text
from flowrt.reporting.palette import STATUS

__all__ = ["page_of"]

_HEIGHT: Final = 300
_CURVE: Final = 100  # points of the law's line
_FINER: Final = 0.8  # from one point of the tail's line to the next
_LINES: Final = {50.0: "#22c55e", 95.0: "#f59e0b", 99.0: "#ef4444"}
_CHARTS: Final = {
    "throughput": ("Throughput", "Items a second, with the noise of the passes; the line is the fitted law."),
    "latency": ("Latency", "Percentiles of each setting."),
    "tail": (
        "How latencies are spread",
        "What share of the items took longer, for each setting; both axes are logarithmic.",
    ),
    "failures": ("Failures", "The share of items that failed."),
}


def page_of(run: Run, node: str, source: str, verdict: Verdict | None = None) -> str:
    """The whole page.

    Args:
        run: The run.
        node: What ran.
        source: Where its inputs came from.
        verdict: How it compares with a baseline, if it does.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    script = library()
    charts = {"throughput": _throughput(run), "latency": _latency(run), "tail": _tail(run)}
    if any(step.failed for step in run.steps.values()):
        charts["failures"] = _failures(run)
    data, places = embed(charts)
    sections = [
        f'<section class="chart"><h2>{title}</h2><p class="note">{note}</p>'
        f'<div class="plot" id="{text(places[name])}"></div></section>'
        for name, (title, note) in _CHARTS.items()
        if name in charts
    ]
    first, *others = conclusions(run)
    points = "".join(f"<li>{text(each)}</li>" for each in others)
    good = "bad" if run.best is None else "good"
    question = "How many a second" if run.plan.open else "How many at once"
    inner = [
        f"<header><h1>{text(node)}</h1>",
        f'<p class="about"><span>{text(source)}</span><span>{"open" if run.plan.open else "closed"} loop</span></p>',
        '<button id="theme" type="button" title="Light or dark" aria-label="Light or dark">◐</button></header><main>',
        f'<section class="answer {good}"><h2>{question}</h2><p>{text(first)}</p><ul>{points}</ul></section>',
        *([] if verdict is None else [_compared(verdict)]),
        *sections,
        _table(run),
        f"</main><footer>flowrt {text(__version__)}</footer>",
    ]
    return document(f"{node}: flowrt bench", inner, data, script)


def _compared(verdict: Verdict) -> str:
    first, *others = verdict_lines(verdict)
    points = "".join(f"<li>{text(each)}</li>" for each in others)
    good = "bad" if verdict.sign == "worse" else "good"
    return f'<section class="answer {good}"><h2>Beside the baseline</h2><p>{text(first)}</p><ul>{points}</ul></section>'


def _table(run: Run) -> str:
    head = "".join(f'<th class="n">{text(each)}</th>' for each in heads(run)[:-1])
    body = []
    for step in run.steps.values():
        *figures, words = row(run, step)
        cells = "".join(f'<td class="n">{text(each)}</td>' for each in figures)
        body.append(f"<tr>{cells}<td>{text(words)}</td></tr>")
    return (
        '<section><h2>Every setting</h2><div class="scroll">'
        f"<table><tr>{head}<th></th></tr>{''.join(body)}</table></div></section>"
    )


def _blank(x: str, y: str, **settings: Any) -> Any:
    from bokeh.plotting import figure  # noqa: PLC0415  # an extra

    made: Any = figure(
        sizing_mode="stretch_width",
        height=_HEIGHT,
        tools="xpan,xwheel_zoom,box_zoom,reset",
        toolbar_location="above",
        output_backend="canvas",
        x_axis_type="log",
        **settings,
    )
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.xaxis.axis_label, made.yaxis.axis_label = x, y
    for axis in (*made.xaxis, *made.yaxis):
        axis.axis_label_text_font_style = "normal"
    made.min_border_left = 56
    return made


def _figure(run: Run, label: str, **settings: Any) -> Any:
    """A figure over the settings."""
    from bokeh.models import FixedTicker  # noqa: PLC0415  # an extra

    made = _blank("items a second that arrive" if run.plan.open else "items at once", label, **settings)
    made.xaxis.ticker = FixedTicker(ticks=list(run.steps), minor_ticks=[])
    return made


def _throughput(run: Run) -> Any:
    from bokeh.models import ColumnDataSource, HoverTool, Whisker  # noqa: PLC0415  # an extra

    made = _figure(run, "items / s")
    steps = [step for step in run.steps.values() if step.slices]
    source = ColumnDataSource(
        {
            "setting": [step.setting for step in steps],
            "value": [step.throughput.value for step in steps],
            "low": [step.throughput.low for step in steps],
            "high": [step.throughput.high for step in steps],
        }
    )
    law = run.law
    if law is not None:
        lowest, highest = min(run.steps), max(run.steps)
        at = [lowest * (highest / lowest) ** (place / _CURVE) for place in range(_CURVE + 1)]
        curve = [law.throughput(n) for n in at]
        made.line(at, curve, line_color="#94a3b8", line_width=2, legend_label="fitted law")
        for name, setting, colour in (("knee", law.knee, "#f59e0b"), ("peak", law.peak, "#ef4444")):
            if law.trusted and setting <= highest:
                made.line([setting, setting], [0, max(curve)], line_color=colour, line_dash="dashed", legend_label=name)
    made.add_layout(Whisker(source=source, base="setting", upper="high", lower="low", line_color="#94a3b8"))
    dots = made.scatter("setting", "value", source=source, size=9, color=STATUS["ok"])
    tips = [("at", "@setting"), ("items / s", "@value{0,0.0}"), ("noise", "@low{0,0.0} to @high{0,0.0}")]
    made.add_tools(HoverTool(tooltips=tips, renderers=[dots]))
    made.y_range.start = 0
    _place_legend(made)
    return made


def _place_legend(made: Any) -> None:
    if made.legend:
        made.legend[0].orientation = "horizontal"
        made.add_layout(made.legend[0], "above")


def _latency(run: Run) -> Any:
    from bokeh.models import Span  # noqa: PLC0415  # an extra

    made = _figure(run, "ms", y_axis_type="log")
    steps = [step for step in run.steps.values() if step.ok]
    for percentile in dict.fromkeys((*_LINES, run.plan.percentile)):
        colour = _LINES.get(percentile, "#7f9fd6")
        values = [step.latencies.at(percentile) * 1e3 for step in steps]
        settings = [step.setting for step in steps]
        made.line(settings, values, line_color=colour, line_width=2, legend_label=f"p{percentile:g}")
        made.scatter(settings, values, color=colour, size=6, legend_label=f"p{percentile:g}")
    budget = run.plan.latency_budget
    if budget is not None:
        made.add_layout(
            Span(location=budget.seconds * 1e3, dimension="width", line_dash="dashed", line_color="#94a3b8")
        )
    _place_legend(made)
    return made


def _tail(run: Run) -> Any:
    from bokeh.models import FixedTicker  # noqa: PLC0415  # an extra
    from bokeh.palettes import viridis  # noqa: PLC0415  # an extra

    made = _blank("ms", "longer, per cent", y_axis_type="log")
    made.yaxis.ticker = FixedTicker(ticks=[100 / 10**power for power in range(5)], minor_ticks=[])
    steps = [step for step in run.steps.values() if step.ok]
    for step, colour in zip(steps, viridis(max(1, len(steps))), strict=False):
        at, left = _spread(step.latencies)
        made.line(at, left, line_color=colour, line_width=2, legend_label=f"{step.setting:g}")
    _place_legend(made)
    return made


def _spread(latencies: Latencies) -> tuple[list[float], list[float]]:
    """Latencies in milliseconds, and what share of them is longer, in per cent, down to one in all of them."""
    shares = [100.0]
    while shares[-1] / 100 * latencies.count > 1:
        shares.append(shares[-1] * _FINER)
    return [latencies.at(100 - share) * 1e3 for share in shares[1:]], shares[1:]


def _failures(run: Run) -> Any:
    made = _figure(run, "per cent", y_range=(0, 100))
    steps = list(run.steps.values())
    settings, shares = [step.setting for step in steps], [step.failure_rate * 100 for step in steps]
    made.line(settings, shares, line_color=STATUS["failed"], line_width=2)
    made.scatter(settings, shares, color=STATUS["failed"], size=7)
    return made
