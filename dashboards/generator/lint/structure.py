"""Rules on what a dashboard is made of: its variables, its panels, its links."""

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
    {"none", "short", "percent", "percentunit", "s", "ms", "bytes", "ops", "reqps", "dateTimeFromNow", "dtdurations"}
)
"""Grafana's names of units that dashboards here may use, beside `prefix:...` and `suffix:...`."""

_ALL: Final = ".+"
_REFRESH: Final = 2
_BUILT_IN: Final = re.compile(r"\$\{?__")
_VARIABLE: Final = re.compile(r"\$\{?([A-Za-z]\w*)")
_DASHBOARD: Final = re.compile(r"/d/([\w-]+)")
_NEEDS_NO_QUERY: Final = frozenset({"text", "row"})


def lint(boards: Mapping[str, Board], *, whole: bool = True) -> list[Finding]:
    """All that is wrong.

    Args:
        boards: The dashboards by their files' names.
        whole: They are all that there are: each metric must be on one of them, and each link must lead to one.
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
                    file, title_of(panel), f"${name} is no variable of the dashboard", f"define {name}, or take it out"
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
        yield Finding(file, where, "it has no title", "say in a few words what it shows")
    if not panel.get("description"):
        yield Finding(file, where, "it has no description", "say what it means and what to do about it")
    if panel.get("type") in _NEEDS_NO_QUERY:
        return
    if (panel.get("datasource") or {}).get("uid") != "${datasource}":
        yield Finding(file, where, "it does not ask the data source that was chosen", "set its uid to ${datasource}")
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
    if unit not in UNITS and not str(unit).startswith(("suffix:", "prefix:")):
        yield Finding(file, where, f"its unit is {unit!r}", f"take one of {', '.join(sorted(UNITS))}, or suffix:…")
    targets = panel.get("targets") or []
    if not targets:
        yield Finding(file, where, "it queries nothing", "give it a target")
    for ref, count in Counter(target.get("refId") for target in targets).items():
        if count > 1:
            yield Finding(file, where, f"{count} queries are called {ref}", "give each a refId of its own")
    for target in targets:
        yield from (Finding(file, where, *found) for found in lint_query(target.get("expr", "")))


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
            yield Finding("all dashboards", name, "no panel shows it", "add it to one, or take it out of the catalogue")


def _dead_links(boards: Mapping[str, Board]) -> Iterator[Finding]:
    known = {board.get("uid") for board in boards.values()}
    for file, board in boards.items():
        for panel in panels_of(board):
            linked = json.dumps([panel.get("links"), panel.get("fieldConfig")])
            for uid in sorted({found[1] for found in _DASHBOARD.finditer(linked)} - known):
                yield Finding(file, title_of(panel), f"it links to {uid}, which is not there", "link to one that is")
