"""Charts of a load test, drawn by bokeh, with best setting, knee and budgets marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from flowrt.loadtest.measurement import Interval, Latencies, Measurement
from flowrt.loadtest.run import Run
from flowrt.reporting.palette import STATUS

__all__ = ["CHARTS", "charts_of", "ticks"]

_HEIGHT: Final = 300
_CURVE_POINTS: Final = 100
_TAIL_FACTOR: Final = 0.8  # between two points of a tail's line
_PERCENTILES: Final = {50.0: "#22c55e", 95.0: "#f59e0b", 99.0: "#ef4444"}
_BEST, _KNEE, _PEAK, _BUDGET, _NOISE, _LAW = "#16a34a", "#d97706", "#dc2626", "#a855f7", "#64748b", "#94a3b8"

CHARTS: Final = {
    "throughput": (
        "Throughput",
        "Items a second; bars are the noise of the passes, the grey line is the fitted law. Both axes are logarithmic.",
    ),
    "latency": ("Latency", "Percentiles of the items that succeeded. Both axes are logarithmic."),
    "tail": ("Spread of the latencies", "Share of the items that took longer, by setting. Both axes are logarithmic."),
    "failures": ("Failures", "Share of the items that failed; bars are the interval that their number leaves open."),
}
"""Title and note of each chart."""


def charts_of(run: Run) -> dict[str, Any]:
    """Figures by the names of CHARTS: without failures, that chart is left out; without measurements, all are.

    Args:
        run: The run.
    """
    if not run.measurements:  # interrupted before the first one ended
        return {}
    charts = {"throughput": _throughput(run), "latency": _latency(run), "tail": _tail(run)}
    if any(measured.failed for measured in run.measurements.values()):
        charts["failures"] = _failures(run)
    return charts


def ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2, 5 of each decade, or powers of ten beyond four decades.

    Args:
        low: Least value, above 0.
        high: Greatest value.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if last - first > 4 else (1, 2, 5)
    return [step * 10.0**power for power in range(first, last + 1) for step in steps]


def _blank(x: str, y: str, xs: Sequence[float], ys: Sequence[float], **settings: Any) -> Any:
    """An empty figure with two logarithmic axes, unless `settings` says otherwise."""
    from bokeh.models import FixedTicker, NumeralTickFormatter, Range1d  # noqa: PLC0415  # an extra
    from bokeh.plotting import figure  # noqa: PLC0415  # an extra

    options: dict[str, Any] = {"x_axis_type": "log", "y_axis_type": "log"} | settings
    made: Any = figure(
        sizing_mode="stretch_width",
        height=_HEIGHT,
        tools="xpan,xwheel_zoom,box_zoom,reset",
        toolbar_location="above",
        output_backend="canvas",
        **options,
    )
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.xaxis.axis_label, made.yaxis.axis_label = x, y
    for axis, values, kind in ((made.xaxis, xs, "x"), (made.yaxis, ys, "y")):
        axis.axis_label_text_font_style = "normal"
        if options[f"{kind}_axis_type"] == "log" and values:
            low, high = min(values), max(values)
            axis.ticker = FixedTicker(ticks=ticks(low, high), minor_ticks=[])
            axis.formatter = NumeralTickFormatter(format="0,0.[0000]")  # the default of a logarithmic axis writes 10³
            setattr(made, f"{kind}_range", Range1d(low / 1.3, high * 1.3))
    made.min_border_left = 56
    return made


def _over_settings(run: Run, label: str, ys: Sequence[float], **settings: Any) -> Any:
    x = "items a second that arrive" if run.plan.open else "items at once"
    return _blank(x, label, list(run.measurements), ys, **settings)


def _throughput(run: Run) -> Any:
    measured = [each for each in run.measurements.values() if each.slices]
    points = [each.throughput for each in measured]
    law = run.law
    xs, curve = [], []
    if law is not None:
        lowest, highest = min(run.measurements), max(run.measurements)
        xs = [lowest * (highest / lowest) ** (place / _CURVE_POINTS) for place in range(_CURVE_POINTS + 1)]
        curve = [law.throughput(n) for n in xs]
    ys = [y for y in (*(each.value for each in points), *(each.high for each in points if each.known), *curve) if y > 0]
    made = _over_settings(run, "items / s", ys)
    if curve:
        made.line(xs, curve, line_color=_LAW, line_width=2, legend_label="fitted law")
    _mark_settings(made, run, ys)
    floor = min(ys, default=1.0) / 1.3  # a logarithmic axis has no 0
    _with_noise(made, measured, points, STATUS["ok"], lambda y: max(floor, y), "{0,0.0}", "items / s")
    _place_legend(made)
    return made


def _with_noise(
    made: Any,
    measured: Sequence[Measurement],
    points: Sequence[Interval],
    colour: str,
    bound: Callable[[float], float],
    form: str,
    unit: str,
) -> None:
    """Dots with error bars."""
    from bokeh.models import ColumnDataSource, HoverTool, TeeHead, Whisker  # noqa: PLC0415  # an extra

    source = ColumnDataSource(
        {
            "setting": [each.setting for each in measured],
            "value": [bound(each.value) for each in points],
            "low": [bound(each.low) if each.known else bound(each.value) for each in points],
            "high": [bound(each.high) if each.known else bound(each.value) for each in points],
        }
    )
    head = {"size": 12, "line_color": _NOISE, "line_width": 2}
    made.add_layout(
        Whisker(
            source=source,
            base="setting",
            upper="high",
            lower="low",
            line_color=_NOISE,
            line_width=2,
            upper_head=TeeHead(**head),
            lower_head=TeeHead(**head),
        )
    )
    made.line("setting", "value", source=source, line_color=colour, line_width=1)
    dots = made.scatter("setting", "value", source=source, size=8, color=colour)
    tips = [("at", "@setting"), (unit, f"@value{form}"), ("noise", f"@low{form} to @high{form}")]
    made.add_tools(HoverTool(tooltips=tips, renderers=[dots]))


def _mark_settings(made: Any, run: Run, ys: Sequence[float]) -> None:
    """Vertical lines at the best setting, and at knee and peak if the law is trusted."""
    if not ys:
        return
    low, high = min(ys) / 1.3, max(ys) * 1.3
    highest, law = max(run.measurements), run.law
    marks = [] if run.best is None else [("best", run.best.setting, _BEST, "solid")]
    if law is not None and law.trusted:
        marks += [
            (name, at, colour, "dashed")
            for name, at, colour in (("knee", law.knee, _KNEE), ("peak", law.peak, _PEAK))
            if at <= highest
        ]
    for name, at, colour, dash in marks:
        made.line(
            [at, at], [low, high], line_color=colour, line_dash=dash, line_width=2, legend_label=f"{name}: {at:.3g}"
        )


def _mark_budget(made: Any, run: Run, value: float, text: str) -> None:
    settings = list(run.measurements)
    made.line(
        [min(settings) / 1.3, max(settings) * 1.3],
        [value, value],
        line_color=_BUDGET,
        line_dash="dotted",
        line_width=2,
        legend_label=f"budget: {text}",
    )


def _place_legend(made: Any) -> None:
    if made.legend:
        made.legend[0].orientation = "horizontal"
        made.add_layout(made.legend[0], "above")


def _latency(run: Run) -> Any:
    measured = [each for each in run.measurements.values() if each.ok]
    settings = [each.setting for each in measured]
    percentiles = list(dict.fromkeys((*_PERCENTILES, run.plan.percentile)))
    lines = {each: [its.latencies.at(each) * 1e3 for its in measured] for each in percentiles}
    budget = run.plan.latency_budget
    ys = [value for values in lines.values() for value in values]
    if budget is not None:
        ys.append(budget.seconds * 1e3)
    made = _over_settings(run, "ms", ys)
    _mark_settings(made, run, ys)
    for percentile, values in lines.items():
        colour = _PERCENTILES.get(percentile, "#7f9fd6")
        made.line(settings, values, line_color=colour, line_width=2, legend_label=f"p{percentile:g}")
        made.scatter(settings, values, color=colour, size=6, legend_label=f"p{percentile:g}")
    if budget is not None:
        _mark_budget(made, run, budget.seconds * 1e3, str(budget))
    _place_legend(made)
    return made


def _tail(run: Run) -> Any:
    from bokeh.palettes import viridis  # noqa: PLC0415  # an extra

    lines = [(each, *_spread(each.latencies)) for each in run.measurements.values() if each.ok]
    xs = [x for _, at, _ in lines for x in at]
    made = _blank("ms", "longer, %", xs, [y for _, _, left in lines for y in left])
    for (measured, at, left), colour in zip(lines, viridis(max(1, len(lines))), strict=False):
        made.line(at, left, line_color=colour, line_width=2, legend_label=f"{measured.setting:g}")
    _place_legend(made)
    return made


def _spread(latencies: Latencies) -> tuple[list[float], list[float]]:
    """Latencies in milliseconds and the share of longer ones in per cent, down to a single item."""
    shares = [100.0]
    while shares[-1] / 100 * latencies.count > 1:
        shares.append(shares[-1] * _TAIL_FACTOR)
    return [latencies.at(100 - share) * 1e3 for share in shares[1:]], shares[1:]


def _failures(run: Run) -> Any:
    measured = [each for each in run.measurements.values() if each.counted]
    points = [each.failures for each in measured]
    background = Interval(0.0, 0.0, 0.0) if run.plan.single else run.background(math.inf)
    limit = None if background is None else (background.value + run.plan.error_budget) * 100
    top = 1.15 * max(*(each.high * 100 for each in points), limit or 0.0)
    made = _over_settings(run, "failed, %", [], y_axis_type="linear", y_range=(0, top))
    _mark_settings(made, run, [0.0, top])
    if limit is not None:
        _mark_budget(made, run, limit, f"{limit:.2g} %")
    _with_noise(
        made,
        measured,
        [Interval(each.value * 100, each.low * 100, each.high * 100) for each in points],
        STATUS["failed"],
        lambda share: share,
        "{0.0[00]}",
        "failed, %",
    )
    _place_legend(made)
    return made
