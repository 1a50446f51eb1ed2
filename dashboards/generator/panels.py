"""Panels in the one form that all dashboards share: title, description, unit, and how series are named and coloured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import prometheus as prometheus_model

__all__ = [
    "COLOURS",
    "DATASOURCE",
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

COLOURS: Final = {
    "ok": "green",
    "failed": "red",
    "timed_out": "orange",
    "cancelled": "#8e8e8e",
    "resumed": "blue",
    "service": "green",
    "slots": "#3274d9",
    "rate_limit": "yellow",
    "backoff": "orange",
    "loop_blocked": "red",
    "consumer": "purple",
    "input": "#8ab8ff",
    "tail": "#8e8e8e",
    "p50": "green",
    "p95": "yellow",
    "p99": "red",
    "limit": "#8e8e8e",
    "in flight": "green",
    "waiting": "orange",
    "done": "green",
    "expected": "#8e8e8e",
}
"""The colour of a series by its name: the same thing looks the same on every dashboard."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Args:
        expr: In PromQL.
        legend: What its series are called, with `{{label}}` for a label's value.
        exemplars: Whether to show traces as dots.
        instant: Only the latest value, not a series over time.
    """

    expr: str
    legend: str = ""
    exemplars: bool = False
    instant: bool = False


def target(query: Query, place: int, *, as_table: bool = False, as_heatmap: bool = False) -> prometheus.Dataquery:
    """A panel's query as Grafana keeps it.

    Args:
        query: What to ask.
        place: Which of the panel's queries it is, from 0.
        as_table: The latest values, a row for each series.
        as_heatmap: A histogram's buckets.
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
    """Colours from a value on.

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
    """A large number.

    Args:
        title: What it is.
        description: What it means and what to do about it.
        unit: Grafana's name of the unit.
        query: Gives it.
        steps: Its colour from a value on.
        width: Of 24.
        decimals: How many to show.
        named: Show the series' name as well.
        filled: Colour the background rather than the number.
        trend: Draw how it came about behind it.
        nothing: What to show where there is no data.
        names: What to show for certain values, and in which colour.
        links: From the panel's head.
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
    most: float | None = None,
    least: float | None = 0,
    steps: Steps = (),
    links: Sequence[dashboard.DashboardLink] = (),
    series_links: Sequence[dashboard.DashboardLink] = (),
) -> timeseries.Panel:
    """Series over time.

    Args:
        title: What it is.
        description: What it means and what to do about it.
        unit: Grafana's name of the unit.
        queries: Give the series.
        width: Of 24.
        height: In rows of the grid.
        stacked: Add the series up.
        filled: Fill the area under a single series a little.
        most: Where the axis ends at least.
        least: Where it begins at most.
        steps: Lines to draw, with their colours; the first has no value.
        links: From the panel's head.
        series_links: From each series.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(DATASOURCE)
        .span(width)
        .height(height)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .line_width(1)
        .fill_opacity(70 if stacked else 15 if filled else 0)
        .show_points(common_model.VisibilityMode.NEVER)
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
    if steps:
        panel = panel.thresholds(thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.DASHED)
        )
    for place, query in enumerate(queries):
        panel = panel.with_target(target(query, place))
    for name in _names(queries):
        panel = panel.override_by_name(name, _fixed(COLOURS[name]))
    return panel


def _names(queries: Sequence[Query]) -> list[str]:
    """The series whose colour is settled: those that a query names, and any where a query names by status or cause."""
    names = [query.legend for query in queries if query.legend in COLOURS]
    for label, values in (("{{status}}", _STATUS), ("{{by}}", _BOUND)):
        if any(query.legend == label for query in queries):
            names += values
    return names


_STATUS: Final = ("ok", "failed", "timed_out", "cancelled", "resumed")
_BOUND: Final = ("service", "slots", "rate_limit", "backoff", "loop_blocked", "consumer", "input", "tail")


def heat(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str = "s",
    width: int = 12,
    links: Sequence[dashboard.DashboardLink] = (),
) -> heatmap.Panel:
    """How a histogram's buckets fill over time.

    Args:
        title: What it is.
        description: What it means.
        query: `sum by (le) (rate(..._bucket[...]))`.
        unit: Grafana's name of the bounds' unit.
        width: Of 24.
        links: From the panel's head.
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
