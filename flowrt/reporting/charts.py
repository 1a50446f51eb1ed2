"""Interactive bokeh charts of the HTML report."""

from __future__ import annotations

from typing import Any, Final

from flowrt.errors import MissingExtraError
from flowrt.recording.columns import OUTCOMES
from flowrt.reporting.attempts import require_numpy
from flowrt.reporting.figures import Detail
from flowrt.reporting.palette import BOUND, STATUS
from flowrt.reporting.units import Unit, unit_of

__all__ = ["charts_of", "library"]

_HEIGHT: Final = 230
_TOOLS: Final = "xpan,xwheel_zoom,xbox_zoom,reset"
_MERGED: Final = "several short attempts"
_SEVERAL: Final = "#7f9fd6"
_LIMITED: Final = "#a78bfa"


def library() -> str:
    """Return bokeh's script, to be inlined into the page.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    _require_bokeh()
    from bokeh.resources import Resources  # noqa: PLC0415  # an extra

    return "\n".join(Resources(mode="inline", components=["bokeh"], minified=True).js_raw)


def charts_of(detail: Detail) -> dict[str, Any]:
    """Return the charts for which there are data, by name.

    Args:
        detail: Figures of the batch.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    _require_bokeh()
    charts: dict[str, Any] = {}
    if detail.timeline is not None:
        from bokeh.models import Range1d  # noqa: PLC0415  # an extra

        unit = unit_of(detail.wall_s)
        width = detail.wall_s / unit.seconds
        time = Range1d(0, width, bounds=(-0.02 * width, 1.02 * width))
        charts["throughput"] = _throughput(detail, unit, time)
        charts["slots"] = _slots(detail, unit, time)
        if detail.bound_timeline:
            charts["bound"] = _bound(detail, unit, time)
        if detail.lanes is not None:
            charts["lanes"] = _lanes(detail, unit, time)
        charts["latency"] = _latency(detail, unit, time)
    if detail.histogram is not None:
        charts["histogram"] = _histogram(detail)
    return charts


def _require_bokeh() -> None:
    try:
        import bokeh  # noqa: F401, PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("a report in HTML", "bokeh", "report") from None


def _figure(y_label: str, unit: Unit | None, time: Any = None, **settings: Any) -> Any:
    from bokeh.plotting import figure  # noqa: PLC0415  # an extra

    settings = {"height": _HEIGHT, "tools": _TOOLS, **settings}
    if time is not None:
        settings["x_range"] = time
    plot: Any = figure(sizing_mode="stretch_width", toolbar_location="above", output_backend="canvas", **settings)
    plot.background_fill_color = plot.border_fill_color = plot.outline_line_color = (
        None  # transparent: the page's theme shows through
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.toolbar_inner = True  # outside of the frame it would reserve an empty band
    plot.yaxis.axis_label = y_label
    if unit is not None:
        plot.xaxis.axis_label = f"{unit.name} since the start"
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_color = None
    plot.xgrid.grid_line_color = None
    plot.min_border_left = 56
    return plot


def _legend(plot: Any) -> None:
    if plot.legend:
        legend = plot.legend[0]
        legend.orientation = "horizontal"
        legend.click_policy = "hide"
        legend.padding, legend.margin, legend.spacing = 2, 0, 12
        legend.label_text_font_size = "11px"
        legend.glyph_width = legend.glyph_height = 12
        legend.ncols = "auto"
        plot.add_layout(legend, "above")


def _hover(plot: Any, tooltips: list[tuple[str, str]], renderers: list[Any], **settings: Any) -> None:
    from bokeh.models import HoverTool  # noqa: PLC0415  # an extra

    plot.add_tools(HoverTool(tooltips=tooltips, renderers=renderers, **settings))


def _pieces(edges: list[float], unit: Unit) -> tuple[Any, Any]:
    np = require_numpy("a report of a recording")
    scaled = np.array(edges) / unit.seconds
    return scaled[:-1], scaled[1:]


def _throughput(detail: Detail, unit: Unit, time: Any) -> Any:
    from bokeh.models import ColumnDataSource  # noqa: PLC0415  # an extra

    line = detail.timeline
    np = require_numpy("a report of a recording")
    plot = _figure("items / s", unit, time)
    if line is None:
        return plot
    left, right = _pieces(line.edges, unit)
    below = np.zeros(len(left))
    bars = []
    shown = [name for name in OUTCOMES if name in line.ended]
    columns: dict[str, Any] = {"left": left, "right": right, **{n: np.array(line.ended[n]) for n in shown}}
    for name in shown:
        columns[f"{name}_below"] = below
        below = below + columns[name]
        columns[f"{name}_top"] = below
    source = ColumnDataSource(columns)
    for name in shown:
        label = name.replace("_", " ")
        bar = plot.quad(
            left="left", right="right", bottom=f"{name}_below", top=f"{name}_top", source=source,
            fill_color=STATUS[name], line_color=None, legend_label=label,
        )  # fmt: skip
        bars.append(bar)
    tips = [("at", f"@left{{0.00}} {unit.short}"), *((n.replace("_", " "), f"@{n}{{0,0.0}} / s") for n in shown)]
    _hover(plot, tips, bars[:1], mode="vline")
    plot.y_range.start = 0
    _legend(plot)
    return plot


def _slots(detail: Detail, unit: Unit, time: Any) -> Any:
    from bokeh.models import ColumnDataSource  # noqa: PLC0415  # an extra

    np = require_numpy("a report of a recording")
    line = detail.timeline
    plot = _figure("slots", unit, time)
    if line is None:
        return plot
    left, right = _pieces(line.edges, unit)
    running, limited = np.array(line.running), np.array(line.limited)
    source = ColumnDataSource(
        {"left": left, "right": right, "running": running, "limited": limited, "top": running + limited}
    )
    common = {"left": "left", "right": "right", "source": source, "line_color": None}
    bars = [plot.quad(bottom=0, top="running", fill_color=STATUS["ok"], legend_label="running", **common)]
    if limited.max() > 0:
        plot.quad(bottom="running", top="top", fill_color=_LIMITED, legend_label="waiting for a rate limit", **common)
    if detail.limits:
        at = [seconds / unit.seconds for seconds, _ in detail.limits] + [detail.wall_s / unit.seconds]
        limits = [limit for _, limit in detail.limits] + [detail.limits[-1][1]]
        plot.step(at, limits, mode="after", line_color="#f97316", line_width=2, legend_label="limit")
    tips = [
        ("at", f"@left{{0.00}} {unit.short}"),
        ("running", "@running{0,0.0}"),
        ("waiting for a rate limit", "@limited{0,0.0}"),
    ]
    _hover(plot, tips, bars, mode="vline")
    _mark_last_start(plot, line.dry_s, unit)
    plot.y_range.start = 0
    _legend(plot)
    return plot


def _mark_last_start(plot: Any, start_s: float, unit: Unit) -> None:
    """Mark the start of the last item: from then on slots become idle."""
    from bokeh.models import Span  # noqa: PLC0415  # an extra

    plot.add_layout(
        Span(
            location=start_s / unit.seconds, dimension="height", line_dash="dashed", line_color="#94a3b8", line_width=1
        )
    )


def _bound(detail: Detail, unit: Unit, time: Any) -> Any:
    from bokeh.models import ColumnDataSource  # noqa: PLC0415  # an extra

    np = require_numpy("a report of a recording")
    plot = _figure("share of the time", unit, time, y_range=(0, 100))
    pieces = detail.bound_timeline
    length = np.array([max(end - begin, 1e-9) for begin, end, _ in pieces])
    columns: dict[str, Any] = {
        "left": np.array([begin for begin, _, _ in pieces]) / unit.seconds,
        "right": np.array([end for _, end, _ in pieces]) / unit.seconds,
    }
    below = np.zeros(len(pieces))
    shown = [cause for cause, spent in detail.bound.items() if spent > 0]
    for cause in shown:
        share = 100 * np.array([spent.get(cause, 0.0) for _, _, spent in pieces]) / length
        columns[cause], columns[f"{cause}_below"] = share, below
        below = below + share
        columns[f"{cause}_top"] = below
    source = ColumnDataSource(columns)
    bars = [
        plot.quad(
            left="left", right="right", bottom=f"{cause}_below", top=f"{cause}_top", source=source,
            fill_color=BOUND[cause].color, line_color=None, legend_label=BOUND[cause].label,
        )
        for cause in shown
    ]  # fmt: skip
    tips = [("at", f"@left{{0.00}} {unit.short}"), *((BOUND[c].label, f"@{c}{{0.0}} %") for c in shown)]
    if bars:
        _hover(plot, tips, bars[:1], mode="vline")
    _legend(plot)
    return plot


def _lanes(detail: Detail, unit: Unit, time: Any) -> Any:
    from bokeh.models import ColumnDataSource, FixedTicker  # noqa: PLC0415  # an extra

    np = require_numpy("a report of a recording")
    lanes = detail.lanes
    if lanes is None:
        return _figure("slot", unit, time)
    rows = len(lanes.shown)
    plot = _figure("slot", unit, time, height=min(620, 110 + 11 * max(rows, 8)), y_range=(rows - 0.4, -0.6))
    step = max(1, rows // 12)
    plot.yaxis.ticker = FixedTicker(ticks=list(range(0, rows, step)))
    plot.yaxis.major_label_overrides = {i: str(lanes.shown[i]) for i in range(0, rows, step)}
    plot.ygrid.grid_line_color = None
    lane = np.array(lanes.lane, np.int16)
    begin, end, held = (np.array(each, np.float64) / unit.seconds for each in (lanes.begin, lanes.end, lanes.held))
    index, count = np.array(lanes.index, np.int32), np.array(lanes.count, np.int32)
    attempt, outcome = np.array(lanes.attempt, np.int16), np.array(lanes.outcome, np.int8)
    straggler = np.array(lanes.straggler, bool)
    ok, several = outcome == OUTCOMES.index("ok"), count > 1
    waited = np.flatnonzero((begin - held) * unit.seconds > detail.wall_s / 2000)
    if len(waited):
        source = ColumnDataSource({"lane": lane[waited], "left": held[waited], "right": begin[waited]})
        plot.hbar(
            y="lane", left="left", right="right", height=0.3, source=source, fill_color=_LIMITED, line_color=None,
            legend_label="waiting for a rate limit",
        )  # fmt: skip
    groups: list[tuple[str, str, Any]] = [
        (_MERGED, _SEVERAL, several & ok),
        ("ok", STATUS["ok"], ok & ~several & ~straggler & (attempt <= 1)),
        ("ok at a later attempt", "#14b8a6", ok & ~several & ~straggler & (attempt > 1)),
        ("straggler", "#f59e0b", ok & straggler),
    ]
    groups += [
        (name.replace("_", " "), STATUS[name], outcome == OUTCOMES.index(name)) for name in OUTCOMES if name != "ok"
    ]
    for label, color, chosen in groups:
        at = np.flatnonzero(chosen)
        if not len(at):
            continue
        width_ms = (end[at] - begin[at]) * unit.seconds * 1e3
        source = ColumnDataSource(
            {
                "lane": lane[at],
                "left": begin[at],
                "right": end[at],
                "index": index[at],
                "count": count[at],
                "attempt": attempt[at],
                "ms": width_ms.astype(np.float32),
            }
        )
        bars = plot.hbar(
            y="lane", left="left", right="right", height=0.78, source=source, fill_color=color,
            line_color=color, line_width=0.5, legend_label=label,
        )  # fmt: skip
        _hover(plot, _bar_tips(label, unit), [bars])
    _legend(plot)
    return plot


def _bar_tips(label: str, unit: Unit) -> list[tuple[str, str]]:
    """Return the tooltip of a bar: of one attempt, or of several merged ones."""
    begin = ("from", f"@left{{0.000}} {unit.short}")
    if label == _MERGED:
        return [("attempts", "@count{0,0}"), ("within", "@ms{0,0.0} ms"), begin]
    return [("item", "@index"), ("attempt", "@attempt"), ("ended", label), ("service time", "@ms{0,0.0} ms"), begin]


def _latency(detail: Detail, unit: Unit, time: Any) -> Any:
    from bokeh.models import ColumnDataSource  # noqa: PLC0415  # an extra

    np = require_numpy("a report of a recording")
    plot = _figure("service time, ms", unit, time)
    line = detail.timeline
    if line is None:
        return plot
    left, right = _pieces(line.edges, unit)
    source = ColumnDataSource(
        {"at": (left + right) / 2, "p50": np.array(line.p50) * 1e3, "p95": np.array(line.p95) * 1e3}
    )
    plot.line("at", "p50", source=source, line_color=STATUS["ok"], line_width=2, legend_label="median")
    high = plot.line("at", "p95", source=source, line_color="#f59e0b", line_width=2, legend_label="95th percentile")
    tips = [("at", f"@at{{0.00}} {unit.short}"), ("median", "@p50{0,0.0} ms"), ("95th percentile", "@p95{0,0.0} ms")]
    _hover(plot, tips, [high], mode="vline")
    plot.y_range.start = 0
    _legend(plot)
    return plot


def _histogram(detail: Detail) -> Any:
    from bokeh.models import ColumnDataSource, NumeralTickFormatter  # noqa: PLC0415  # an extra

    np = require_numpy("a report of a recording")
    spread = detail.histogram
    plot = _figure("attempts", None, x_axis_type="log")
    plot.xaxis.axis_label = "service time, ms"
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0.[000]")
    plot.yaxis.formatter = NumeralTickFormatter(format="0a")
    if spread is None:
        return plot
    edges = np.array(spread.edges) * 1e3
    ok, other = np.array(spread.ok), np.array(spread.other)
    source = ColumnDataSource({"left": edges[:-1], "right": edges[1:], "ok": ok, "other": other, "top": ok + other})
    common = {"left": "left", "right": "right", "source": source, "line_color": None}
    bars = [plot.quad(bottom=0, top="ok", fill_color=STATUS["ok"], legend_label="ok", **common)]
    if other.any():
        bars.append(plot.quad(bottom="ok", top="top", fill_color=STATUS["failed"], legend_label="not ok", **common))
    tips = [("from", "@left{0,0.00} ms"), ("to", "@right{0,0.00} ms"), ("ok", "@ok{0,0}"), ("not ok", "@other{0,0}")]
    _hover(plot, tips, bars)
    plot.y_range.start = 0
    _legend(plot)
    return plot
