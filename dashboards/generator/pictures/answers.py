"""Answers of a Prometheus to the queries of a dashboard, in the form that `draw.tsx` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from dashboards.generator.filled import filled
from dashboards.generator.lint.findings import Board, panels_of
from dashboards.generator.servers import Api

__all__ = ["STEP_S", "answers_of", "marks_of"]

_INTERVAL: Final = "10s"
STEP_S: Final = 2.0
_MARKS: Final = {"Batch starts": "#5794f2", "Alerts": "#f2495c"}
_MOST_EXEMPLARS: Final = 60


def answers_of(board: Board, api: Api, start_s: float, end_s: float, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return the answers of each panel, by the panel's id.

    Args:
        board: The dashboard.
        api: The Prometheus.
        start_s: Start in seconds since 1970.
        end_s: End in seconds since 1970.
        chosen: Values of the dashboard's variables that are not at `All`.
    """
    return {
        str(panel["id"]): [_answer(target, api, start_s, end_s, chosen) for target in panel.get("targets", [])]
        for panel in panels_of(board)
    }


def _answer(
    target: dict[str, Any], api: Api, start_s: float, end_s: float, chosen: Mapping[str, str]
) -> dict[str, Any]:
    expr = _fill(target["expr"], start_s, end_s, chosen)
    if target.get("instant"):
        found = [
            {"metric": each["metric"], "values": [each["value"]], "legend": _legend(target, each["metric"])}
            for each in api.series(expr)
        ]
    else:
        found = [
            {"metric": each["metric"], "values": each["values"], "legend": _legend(target, each["metric"])}
            for each in api.ranged(expr, start_s, end_s, STEP_S)
        ]
    exemplars = [
        (exemplar["timestamp"], float(exemplar["value"]))
        for series in (api.exemplars(expr, start_s, end_s) if target.get("exemplar") else [])
        for exemplar in series["exemplars"]
    ]
    slowest = sorted(exemplars, key=lambda exemplar: -exemplar[1])[:_MOST_EXEMPLARS]
    return {"refId": target["refId"], "series": found, "exemplars": slowest}


def marks_of(board: Board, api: Api, start_s: float, end_s: float) -> list[dict[str, Any]]:
    """Return the vertical lines of the annotations: the start of each event within the time shown.

    Args:
        board: The dashboard.
        api: The Prometheus.
        start_s: Start in seconds since 1970.
        end_s: End in seconds since 1970.
    """
    marks = []
    for annotation in board.get("annotations", {}).get("list", []):
        for series in api.ranged(_fill(annotation["expr"], start_s, end_s, {}), start_s, end_s, STEP_S):
            began_s = float(series["values"][0][0])
            if began_s > start_s + STEP_S:
                marks.append({"at": began_s, "colour": _MARKS[annotation["name"]]})
    return marks


def _fill(expr: str, start_s: float, end_s: float, chosen: Mapping[str, str]) -> str:
    return filled(expr, interval=_INTERVAL, span=f"{round(end_s - start_s)}s", chosen=chosen)


def _legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    form = target.get("legendFormat", "__auto")
    if form != "__auto":
        return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)
    shown = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{{{shown}}}" if shown else "Value"
