"""Panels that list: tables, bar gauges and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, table
from grafana_foundation_sdk.builders import text as text_panel
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import text as text_model

from dashboards.generator.panels import DATASOURCE, ERRORS, Query, Steps, target, thresholds

__all__ = ["Column", "bars", "notes", "rows"]


@dataclass(frozen=True, slots=True)
class Column:
    """Column of a table: the values of one query.

    Args:
        title: Head of the column.
        query: PromQL that returns one series per row.
        unit: Grafana's name of the unit.
        steps: Colours of the cell's background from a value up.
        decimals: Number of decimals.
    """

    title: str
    query: str
    unit: str
    steps: Steps = ()
    decimals: int | None = None


def bars(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    nothing: str,
    width: int = 12,
    height: int = 8,
    steps: Steps = ((None, ERRORS),),
    series_links: Sequence[dashboard.DashboardLink] = (),
) -> bargauge.Panel:
    """Bar gauge panel: one bar per series.

    Args:
        title: Quantity, with its unit and window in parentheses.
        description: Meaning, and what to do about a bad value.
        unit: Grafana's name of the unit.
        query: An instant query.
        nothing: Text where there is no data.
        width: Columns, of 24.
        height: Rows of the grid.
        steps: Colour of a bar from a value up.
        series_links: Links of each bar.
    """
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(DATASOURCE)
        .span(width)
        .height(height)
        .min(0)
        .no_value(nothing)
        .orientation(common_model.VizOrientation.HORIZONTAL)
        .display_mode(common_model.BarGaugeDisplayMode.BASIC)
        .thresholds(thresholds(steps))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(target(query, 0))
        .data_links(list(series_links))
    )


def rows(
    title: str,
    description: str,
    labels: Sequence[str],
    columns: Sequence[Column],
    *,
    width: int = 12,
    height: int = 8,
    sort: str = "",
    ascending: bool = False,
    links: Sequence[dashboard.DashboardLink] = (),
    row_links: dict[str, Sequence[dict[str, Any]]] | None = None,
    widths: dict[str, int] | None = None,
) -> table.Panel:
    """Table panel: one row per set of labels, one column per query.

    Args:
        title: Quantity, with its window in parentheses.
        description: Meaning, and what to do about a bad value.
        labels: Columns that name the row.
        columns: Columns with values.
        width: Columns of the grid, of 24.
        height: Rows of the grid.
        sort: Column to sort by, largest first.
        ascending: Sort by that column with the smallest first.
        links: Links in the panel's head.
        row_links: Links of a column's cells.
        widths: Widths of columns in pixels, where the default is too narrow.
    """
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .unit("short")
        .datasource(DATASOURCE)
        .span(width)
        .height(height)
        .links(list(links))
        .no_value("–")
        .min_width(70)
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(model.DataTransformerConfig(id_val="organize", options=_organised(labels, columns)))
    )
    for place, column in enumerate(columns):
        panel = panel.with_target(target(Query(column.query), place, as_table=True))
        panel = panel.override_by_name(column.title, _cell(column))
    for label, cell_links in (row_links or {}).items():
        panel = panel.override_by_name(label, [model.DynamicConfigValue(id_val="links", value=list(cell_links))])
    for label, pixels in (widths or {}).items():
        panel = panel.override_by_name(label, [model.DynamicConfigValue(id_val="custom.width", value=pixels)])
    if sort:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(not ascending)])
    return panel


def _organised(labels: Sequence[str], columns: Sequence[Column]) -> dict[str, Any]:
    """Order labels before values, and rename the values: Grafana calls a single one `Value`, several `Value #A` etc."""
    values = ["Value"] if len(columns) == 1 else [f"Value #{chr(ord('A') + place)}" for place in range(len(columns))]
    order = [*labels, *values]
    return {
        "excludeByName": {"Time": True},
        "indexByName": {name: place for place, name in enumerate(order)},
        "renameByName": dict(zip(values, (column.title for column in columns), strict=True)),
    }


def _cell(column: Column) -> list[model.DynamicConfigValue]:
    values = [model.DynamicConfigValue(id_val="unit", value=column.unit)]
    if column.decimals is not None:
        values.append(model.DynamicConfigValue(id_val="decimals", value=column.decimals))
    if column.steps:
        steps = [{"color": colour, "value": value} for value, colour in column.steps]
        values += [
            model.DynamicConfigValue(id_val="thresholds", value={"mode": "absolute", "steps": steps}),
            model.DynamicConfigValue(id_val="color", value={"mode": "thresholds"}),
            model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-background", "mode": "basic"}),
        ]
    return values


def notes(title: str, description: str, markdown: str, *, width: int = 24, height: int = 10) -> text_panel.Panel:
    """Text panel.

    Args:
        title: Head of the panel.
        description: Purpose of the text.
        markdown: The text.
        width: Columns, of 24.
        height: Rows of the grid.
    """
    return (
        text_panel.Panel()
        .title(title)
        .description(description)
        .span(width)
        .height(height)
        .mode(text_model.TextMode.MARKDOWN)
        .content(markdown)
    )
