"""Frame of every dashboard: variables, annotations, links, and the placement of panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model

from dashboards.generator.panels import DATASOURCE
from dashboards.generator.promql import FIRING

__all__ = ["TAG", "Row", "frame"]

TAG: Final = "flowrt"
_ALL: Final = ".+"

Row = tuple[str, Sequence[Builder[model.Panel]]]
"""A heading and its panels, from left to right; they wrap at 24 columns."""


def frame(
    uid: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    *,
    variables: Sequence[str] = (),
    source: str = "flowrt_build_info",
    queried: bool = True,
    starts: bool = True,
) -> model.Dashboard:
    """Build a dashboard.

    Args:
        uid: Identity, which links use.
        title: Title.
        description: The questions that it answers.
        rows: Rows of panels.
        variables: Labels to choose by, beside job and instance.
        source: Metric whose labels fill the variables.
        queried: False for a dashboard of texts, which needs neither variables nor annotations.
        starts: Mark the starts of batches; False where they start many times a second.
    """
    board = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(_all_dashboards())
    )
    if queried:
        board = board.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        for name in ("job", "instance", *variables):
            board = board.with_variable(_variable(name, source if name in variables else "flowrt_build_info"))
        if starts:
            board = board.annotation(_batch_starts())
        board = board.annotation(_alerts())
    number = 0
    for heading, panels in rows:
        if heading:
            number += 1
            board = board.with_row(dashboard.Row(heading).id(1000 + number))
        for panel in panels:
            board = board.with_panel(panel)
    built = board.build()
    places = 0
    for each in built.panels or []:
        if isinstance(each, model.Panel):
            places += 1
            each.id_val = places
    return built


def _variable(name: str, source: str) -> dashboard.QueryVariable:
    above = {"job": "", "instance": '{job=~"$job"}'}.get(name, '{job=~"$job", instance=~"$instance"}')
    query: dict[str, Any] = {"query": f"label_values({source}{above}, {name})", "refId": "variable"}
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query(query)
        .definition(query["query"])
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(_ALL)
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _batch_starts() -> dashboard.AnnotationQuery:
    active = 'flowrt_batches_active{job=~"$job", instance=~"$instance"}'
    return (
        dashboard.AnnotationQuery()
        .name("Batch starts")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("blue")
        .expr(f"{active} > 0 unless ({active} offset 1m > 0)")
        .step("15s")
        .title_format("{{batch}} started")
        .tag_keys("batch,instance")
    )


def _alerts() -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("red")
        .expr(FIRING)
        .step("15s")
        .title_format("{{alertname}}")
        .text_format("{{batch}} {{node}} {{instance}}")
        .tag_keys("severity,batch")
    )


def _all_dashboards() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("flowrt")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
        .target_blank(False)
    )
