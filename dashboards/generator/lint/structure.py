"""Rules on a dashboard's structure: variables, panels, colours and links."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dashboards.generator.lint.findings import Board, Finding, panels_of, title_of
from dashboards.generator.lint.queries import lint_query, names_in
from flowrt.telemetry.metrics.catalogue import CATALOGUE

__all__ = ["UNITS", "lint"]

UNITS: Final = frozenset(
    {
        "none",
        "short",
        "percent",
        "percentunit",
        "s",
        "ms",
        "bytes",
        "ops",
        "reqps",
        "dateTimeFromNow",
        "dtdurations",
        "locale",
    }
)
"""Units that the dashboards may use, by Grafana's names, beside `prefix:...` and `suffix:...`."""

_ALL: Final = ".+"
_REFRESH: Final = 2
_BUILT_IN: Final = re.compile(r"\$\{?__")
_VARIABLE: Final = re.compile(r"\$\{?([A-Za-z]\w*)")
_DASHBOARD: Final = re.compile(r"/d/([\w-]+)")
_NEEDS_NO_QUERY: Final = frozenset({"text", "row"})
_IN_PARENTHESES: Final = re.compile(r"\(([^()]+)\)$")
_WINDOW: Final = re.compile(r"\b(now|ago|time shown|last \w+|\d+ days|objective|per window)\b")
_LETTERS: Final = 7.5  # of a title, per column, on a screen 1,500 pixels wide
_MODES: Final = frozenset({"fixed", "shades", "thresholds", "continuous-BlPu"})
_BY_NAME: Final = re.compile(r"\{\{(?:batch|node)\}\}")
_BOUNDED: Final = re.compile(r"\b(?:topk|bottomk)\(.*@ end\(\)")
_GREEN: Final = frozenset({"green", "dark-green", "light-green", "semi-dark-green", "super-light-green", "#73bf69"})


def lint(boards: Mapping[str, Board], *, whole: bool = True) -> list[Finding]:
    """Return all findings.

    Args:
        boards: Dashboards by the names of their files.
        whole: The dashboards are complete: check that each metric is on a panel and that each link has a target.
    """
    findings = [finding for file, board in boards.items() for finding in _lint_board(file, board)]
    if whole:
        findings += _unshown(boards)
        findings += _dead_links(boards)
    return findings


def _lint_board(file: str, board: Board) -> Iterator[Finding]:
    panels = list(panels_of(board))
    queried = [panel for panel in panels if panel.get("type") not in _NEEDS_NO_QUERY]
    if queried:
        yield from _variables(file, board)
    yield from _unique_ids(file, board)
    for panel in panels:
        yield from _panel(file, panel)
    defined = {variable.get("name") for variable in board.get("templating", {}).get("list", [])}
    for panel in panels:
        for name in _used(panel):
            if name not in defined:
                yield Finding(
                    file, title_of(panel), f"${name} is no variable of the dashboard", f"define {name}, or remove it"
                )
    for annotation in board.get("annotations", {}).get("list", []):
        if "expr" in annotation:
            what = f"annotation {annotation.get('name')}"
            yield from (Finding(file, what, *found) for found in lint_query(annotation["expr"]))


def _variables(file: str, board: Board) -> Iterator[Finding]:
    variables = {variable.get("name"): variable for variable in board.get("templating", {}).get("list", [])}
    for name in ("datasource", "job", "instance"):
        if name not in variables:
            yield Finding(file, f"variable {name}", "it is missing", "add it, as `dashboards/generator/frame.py` does")
    for name, variable in variables.items():
        what = f"variable {name}"
        if name == "datasource":
            if variable.get("type") != "datasource" or variable.get("query") != "prometheus":
                yield Finding(
                    file, what, "it does not choose a Prometheus", 'make it type "datasource" of "prometheus"'
                )
            continue
        if variable.get("type") != "query":
            yield Finding(file, what, f"its type is {variable.get('type')!r}", 'make it "query"')
        if not variable.get("multi"):
            yield Finding(file, what, "only one value can be chosen", "set multi to true")
        if not variable.get("includeAll") or variable.get("allValue") != _ALL:
            yield Finding(file, what, f"all of them is not {_ALL!r}", f"set includeAll, and allValue to {_ALL!r}")
        if variable.get("refresh") != _REFRESH:
            yield Finding(
                file, what, f"refresh is {variable.get('refresh')}", f"set it to {_REFRESH}, on time range changed"
            )


def _unique_ids(file: str, board: Board) -> Iterator[Finding]:
    everything = [*board.get("panels", []), *(p for row in board.get("panels", []) for p in row.get("panels") or [])]
    for number, count in Counter(panel.get("id") for panel in everything).items():
        if number is None or count > 1:
            titles = ", ".join(title_of(panel) for panel in everything if panel.get("id") == number)
            yield Finding(file, titles, f"{count} panels have the id {number}", "give each its own")


def _panel(file: str, panel: dict[str, Any]) -> Iterator[Finding]:
    where = title_of(panel)
    if not panel.get("title"):
        yield Finding(file, where, "it has no title", "name the quantity, its unit and its window")
    if not panel.get("description"):
        yield Finding(file, where, "it has no description", "say what it means and what to do about a bad value")
    if panel.get("type") in _NEEDS_NO_QUERY:
        return
    yield from (Finding(file, where, *found) for found in (*_title(panel), *_colours(panel)))
    if (panel.get("datasource") or {}).get("uid") != "${datasource}":
        yield Finding(file, where, "it does not use the chosen data source", "set its uid to ${datasource}")
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
    if unit not in UNITS and not str(unit).startswith(("suffix:", "prefix:")):
        yield Finding(file, where, f"its unit is {unit!r}", f"use one of {', '.join(sorted(UNITS))}, or suffix:…")
    targets = panel.get("targets") or []
    if not targets:
        yield Finding(file, where, "it queries nothing", "give it a target")
    for ref, count in Counter(target.get("refId") for target in targets).items():
        if count > 1:
            yield Finding(file, where, f"{count} queries are called {ref}", "give each a refId of its own")
    for target in targets:
        yield from (Finding(file, where, *found) for found in lint_query(target.get("expr", "")))
        names_series = panel.get("type") == "timeseries" and _BY_NAME.search(target.get("legendFormat") or "")
        if names_series and not _BOUNDED.search(target.get("expr", "")):
            wrong = "it draws a series per name, and a service may have hundreds of names"
            yield Finding(file, where, wrong, "draw those that matter, with `largest` in promql.py")


def _title(panel: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Check that a title has its unit and its window; a time series shows its time on the axis."""
    found = _IN_PARENTHESES.search(panel.get("title") or "()")
    if found is None:
        yield "its title has no unit", "end it with the unit in parentheses, as in 'Items ended (per second, now)'"
    elif panel.get("type") not in ("timeseries", "heatmap") and not _WINDOW.search(found[1]):
        yield "its title has no window", "add it to the parentheses: now, time shown, last hour, ..."
    most = int(_LETTERS * panel.get("gridPos", {}).get("w", 24))
    if panel.get("type") == "stat" and len(panel["title"]) > most:
        yield f"its title has {len(panel['title'])} characters", f"shorten it to {most}, or it is cut off"


def _colours(panel: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Check that no series is green unless green means healthy there: a failing series would look well."""
    if panel.get("type") != "timeseries":
        return
    config = panel.get("fieldConfig", {})
    defaults = config.get("defaults", {})
    colour = defaults.get("color", {})
    if colour.get("mode") not in _MODES:
        yield f"its colour mode is {colour.get('mode')}", "colour by status or value, as `lines` in panels.py does"
    steps = defaults.get("thresholds", {}).get("steps", []) if colour.get("mode") == "thresholds" else []
    fixed = [colour, *(p["value"] for o in config.get("overrides", []) for p in o["properties"] if p["id"] == "color")]
    used = {step.get("color") for step in steps} | {each.get("fixedColor") for each in fixed}
    if green := sorted(str(each) for each in used if str(each).lower() in _GREEN):
        yield f"a series can be {green[0]}", "green means healthy: use a neutral colour"


def _used(panel: dict[str, Any]) -> set[str]:
    text = json.dumps([panel.get("targets"), panel.get("title"), panel.get("fieldConfig"), panel.get("links")])
    return {
        found[1].partition(":")[0] for found in _VARIABLE.finditer(text) if not _BUILT_IN.match(text, found.start())
    }


def _unshown(boards: Mapping[str, Board]) -> Iterator[Finding]:
    shown = {
        name
        for board in boards.values()
        for panel in panels_of(board)
        for target in panel.get("targets") or []
        for name in names_in(target.get("expr", ""))
    }
    for name, metric in CATALOGUE.items():
        parts = {name, *(f"{name}{part}" for part in ("_bucket", "_sum", "_count") if metric.kind == "histogram")}
        if not parts & shown:
            yield Finding(
                "all dashboards", name, "no panel shows it", "add it to a panel, or remove it from the catalogue"
            )


def _dead_links(boards: Mapping[str, Board]) -> Iterator[Finding]:
    known = {board.get("uid") for board in boards.values()}
    for file, board in boards.items():
        for panel in panels_of(board):
            linked = json.dumps([panel.get("links"), panel.get("fieldConfig")])
            for uid in sorted({found[1] for found in _DASHBOARD.finditer(linked)} - known):
                yield Finding(
                    file, title_of(panel), f"it links to {uid}, which does not exist", "link to a dashboard that exists"
                )
