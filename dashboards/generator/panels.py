"""Panels in one form for all dashboards: title, description, unit, and the names and colours of series.

No panel colours its series by their order, as Grafana does by default: then the first series would be green even where
it fails. Statuses, causes and percentiles have fixed colours, other series range from blue to purple by their value,
and a share of failures turns yellow and red.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import prometheus as prometheus_model

from flowrt.reporting.palette import BOUND, STATUS

__all__ = [
    "COLOURS",
    "DATASOURCE",
    "ERRORS",
    "NEUTRAL",
    "Panel",
    "Query",
    "Steps",
    "heat",
    "lines",
    "number",
    "target",
    "thresholds",
]

Panel = Builder[model.Panel]
Steps = Sequence[tuple[float | None, str]]

DATASOURCE: Final = common_model.DataSourceRef(type_val="prometheus", uid="${datasource}")

NEUTRAL: Final = "#5794f2"
"""Colour of series that are neither good nor bad."""

ERRORS: Final = STATUS["failed"]
"""Base colour of series that count failures."""

_GREY: Final = "#8e8e8e"

COLOURS: Final = {
    **STATUS,
    **{cause: bound.color for cause, bound in BOUND.items()},
    "p50": "#8ab8ff",
    "p95": "#3274d9",
    "p99": "#b877d9",
    "mean": "#ccccdc",
    "limit": _GREY,
    "in flight": NEUTRAL,
    "waiting": STATUS["timed_out"],
    "done": NEUTRAL,
    "expected": _GREY,
    "error": STATUS["failed"],
    "timeout": STATUS["timed_out"],
    "rate_limited": BOUND["rate_limit"].color,
    "won": STATUS["ok"],
    "lost": STATUS["cancelled"],
    "hit": STATUS["ok"],
    "miss": _GREY,
    "crash": STATUS["failed"],
    "memory": BOUND["backoff"].color,
    "recycled": _GREY,
}
"""Colour of a series by its name, the same on every dashboard."""

_VALUES: Final = {
    "{{status}}": tuple(STATUS),
    "{{by}}": tuple(BOUND),
    "{{reason}}": ("error", "timeout", "rate_limited", "crash", "cancelled", "memory", "recycled"),
    "{{outcome}}": ("won", "lost", "failed"),
    "{{result}}": ("hit", "miss"),
}
"""Names of the series of a query by its legend, where each value of the label has a colour."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Args:
        expr: PromQL.
        legend: Names of the series, with `{{label}}` for a label's value.
        exemplars: Show traces as dots.
        instant: Ask for the latest value only, not for a series over time.
    """

    expr: str
    legend: str = ""
    exemplars: bool = False
    instant: bool = False


def target(query: Query, place: int, *, as_table: bool = False, as_heatmap: bool = False) -> prometheus.Dataquery:
    """Query in Grafana's form.

    Args:
        query: The query.
        place: Its index among the panel's queries, from 0.
        as_table: Return the latest values, one row per series.
        as_heatmap: Return the buckets of a histogram.
    """
    form = (
        prometheus_model.PromQueryFormat.TABLE
        if as_table
        else prometheus_model.PromQueryFormat.HEATMAP
        if as_heatmap
        else prometheus_model.PromQueryFormat.TIME_SERIES
    )
    target = (
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .expr(query.expr)
        .legend_format(query.legend or "__auto")
        .ref_id(chr(ord("A") + place))
        .format(form)
        .editor_mode(prometheus_model.QueryEditorMode.CODE)
    )
    if query.exemplars:
        target = target.exemplar(True)
    return target.instant() if query.instant or as_table else target.range()


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    """Thresholds: each step's colour holds from its value up.

    Args:
        steps: Values, ascending, each with its colour; the first has no value.
    """
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=colour) for value, colour in steps])
    )


def _fixed(colour: str) -> list[model.DynamicConfigValue]:
    return [
        model.DynamicConfigValue(
            id_val="color", value={"mode": model.FieldColorModeId.FIXED.value, "fixedColor": colour}
        )
    ]


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    steps: Steps = ((None, "text"),),
    width: int = 4,
    decimals: int | None = None,
    named: bool = False,
    filled: bool = False,
    trend: bool = True,
    nothing: str | None = None,
    names: Mapping[str, tuple[str, str]] | None = None,
    links: Sequence[dashboard.DashboardLink] = (),
) -> stat.Panel:
    """Stat panel: one large number.

    Args:
        title: Quantity, with its unit and window in parentheses.
        description: Meaning, and what to do about a bad value.
        unit: Grafana's name of the unit.
        query: Query of one series.
        steps: Colour of the number from a value up.
        width: Columns, of 24.
        decimals: Number of decimals.
        named: Show the series' name too.
        filled: Colour the background rather than the number.
        trend: Draw the history behind the number.
        nothing: Text where there is no data.
        names: Text and colour for certain values.
        links: Links in the panel's head.
    """
    area = common_model.BigValueGraphMode.AREA if trend else common_model.BigValueGraphMode.NONE
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(DATASOURCE)
        .span(width)
        .height(4)
        .thresholds(thresholds(steps))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .color_mode(common_model.BigValueColorMode.BACKGROUND_SOLID if filled else common_model.BigValueColorMode.VALUE)
        .graph_mode(area)
        .text_mode(common_model.BigValueTextMode.VALUE_AND_NAME if named else common_model.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(target(query, 0))
        .links(list(links))
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    if names is not None:
        shown = {value: model.ValueMappingResult(text=text, color=colour) for value, (text, colour) in names.items()}
        panel = panel.mappings([model.ValueMap(options=shown)])
    return panel if nothing is None else panel.no_value(nothing)


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    filled: bool = False,
    shades: str | None = None,
    by_value: Steps = (),
    most: float | None = None,
    least: float | None = 0,
    steps: Steps = (),
    patterns: Mapping[str, str] = MappingProxyType({}),
    links: Sequence[dashboard.DashboardLink] = (),
    series_links: Sequence[dashboard.DashboardLink] = (),
) -> timeseries.Panel:
    """Time series panel.

    Args:
        title: Quantity, with its unit in parentheses.
        description: Meaning, and what to do about a bad value.
        unit: Grafana's name of the unit.
        queries: Queries of the series.
        width: Columns, of 24.
        height: Rows of the grid.
        stacked: Stack the series.
        filled: Fill the area under a single series a little.
        shades: Base colour of the series that `COLOURS` does not name; None for blue to purple, by their last values.
        by_value: Colour each series by its highest value in the time shown instead, and draw `steps` from the same
            values; the first step has no value.
        most: Lowest end of the axis.
        least: Highest start of the axis.
        steps: Horizontal lines with their colours; the first step has no value.
        patterns: Colours of series by regular expressions on their names.
        links: Links in the panel's head.
        series_links: Links of each series.
    """
    colour = dashboard.FieldColor().mode(model.FieldColorModeId.CONTINUOUS_BL_PU)
    if shades is not None:
        colour = dashboard.FieldColor().mode(model.FieldColorModeId.SHADES).fixed_color(shades)
    elif by_value:
        # The highest rather than the last value: a node that failed and recovered must stand out too.
        colour = (
            dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS).series_by(model.FieldColorSeriesByMode.MAX)
        )
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(DATASOURCE)
        .span(width)
        .height(height)
        .color_scheme(colour)
        .line_width(1)
        .fill_opacity(70 if stacked else 15 if filled else 0)
        .show_points(common_model.VisibilityMode.AUTO)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(common_model.LegendDisplayMode.LIST)
            .placement(common_model.LegendPlacement.BOTTOM)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_model.TooltipDisplayMode.MULTI)
            .sort(common_model.SortOrder.DESCENDING)
        )
        .links(list(links))
        .data_links(list(series_links))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
    if least is not None:
        panel = panel.min(least)
    if most is not None:
        panel = panel.axis_soft_max(most)
    if steps or by_value:
        panel = panel.thresholds(thresholds(by_value or steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.DASHED)
        )
    for place, query in enumerate(queries):
        panel = panel.with_target(target(query, place))
    for name in _names(queries):
        panel = panel.override_by_name(name, _fixed(COLOURS[name]))
    for pattern, colour_name in patterns.items():
        panel = panel.override_by_regexp(pattern, _fixed(colour_name))
    return panel


def _names(queries: Sequence[Query]) -> list[str]:
    """Names of the series that have a fixed colour."""
    names = [query.legend for query in queries if query.legend in COLOURS]
    for legend, values in _VALUES.items():
        if any(query.legend == legend for query in queries):
            names += values
    return names


def heat(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str = "s",
    width: int = 12,
    links: Sequence[dashboard.DashboardLink] = (),
) -> heatmap.Panel:
    """Heatmap panel: a histogram's buckets over time.

    Args:
        title: Quantity, with its unit in parentheses.
        description: Meaning, and what to do about a bad value.
        query: `sum by (le) (rate(..._bucket[...]))`.
        unit: Grafana's name of the bounds' unit.
        width: Columns, of 24.
        links: Links in the panel's head.
    """
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .unit("short")
        .datasource(DATASOURCE)
        .span(width)
        .height(8)
        .calculate(False)
        .cell_gap(1)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_model.HeatmapColorMode.SCHEME)
            .scheme("Turbo")
            .steps(64)
            .exponent(0.5)
        )
        .exemplars_color("rgba(255,255,255,0.9)")
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .show_legend()
        .with_target(target(query, 0, as_heatmap=True))
        .links(list(links))
    )
