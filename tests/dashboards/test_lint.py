"""The linter finds each problem of a dashboard, with its place and its fix."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards.generator.files import FOLDER
from dashboards.generator.lint import Finding, lint
from dashboards.generator.lint.__main__ import main

BOARDS = {path.name: json.loads(path.read_text()) for path in (FOLDER / "grafana" / "dashboards").glob("*.json")}
FILE = "flowrt-node.json"
TITLE = "Items failing (%, now)"
QUEUE_WAIT = "Queue wait (s)"


def panel_of(board: dict[str, Any], title: str = TITLE) -> dict[str, Any]:
    return next(panel for panel in board["panels"] if panel["title"] == title)


def query(expr: str) -> Callable[[dict[str, Any]], None]:
    def put(board: dict[str, Any]) -> None:
        panel_of(board)["targets"][0]["expr"] = expr

    return put


def setting(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def put(board: dict[str, Any]) -> None:
        panel_of(board)[key] = value

    return put


def variable(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def put(board: dict[str, Any]) -> None:
        next(each for each in board["templating"]["list"] if each["name"] == name).update(changes)

    return put


def without_variable(name: str) -> Callable[[dict[str, Any]], None]:
    def put(board: dict[str, Any]) -> None:
        kept = [each for each in board["templating"]["list"] if each["name"] != name]
        board["templating"]["list"] = kept

    return put


def same_id(board: dict[str, Any]) -> None:
    panel_of(board)["id"] = panel_of(board, "Attempt duration (mean, now)")["id"]


def same_ref(board: dict[str, Any]) -> None:
    panel = panel_of(board)
    panel["targets"] *= 2


def bad_unit(board: dict[str, Any]) -> None:
    panel_of(board)["fieldConfig"]["defaults"]["unit"] = "furlongs"


def bad_annotation(board: dict[str, Any]) -> None:
    board["annotations"]["list"][-1]["expr"] = "flowrt_batches_active > 0"


def line_colour(**colour: str) -> Callable[[dict[str, Any]], None]:
    def put(board: dict[str, Any]) -> None:
        panel_of(board, QUEUE_WAIT)["fieldConfig"]["defaults"]["color"] = colour

    return put


def green_step(board: dict[str, Any]) -> None:
    line_colour(mode="thresholds")(board)
    panel_of(board, QUEUE_WAIT)["fieldConfig"]["defaults"]["thresholds"] = {
        "steps": [{"value": None, "color": "green"}]
    }


def series_per_name(board: dict[str, Any]) -> None:
    target = panel_of(board, QUEUE_WAIT)["targets"][0]
    target.update(expr=f"sum by (batch) (flowrt_items_inflight{{{CHOSEN}}})", legendFormat="{{batch}}")


def largest_of_each_moment(board: dict[str, Any]) -> None:
    series_per_name(board)
    target = panel_of(board, QUEUE_WAIT)["targets"][0]
    target["expr"] = f"topk(8, {target['expr']})"


CHOSEN = 'job=~"$job", instance=~"$instance"'

BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str, str, str]] = {
    "no datasource variable": (without_variable("datasource"), "variable datasource", "missing", "add it"),
    "no job variable": (without_variable("job"), "variable job", "missing", "add it"),
    "no instance variable": (without_variable("instance"), "variable instance", "missing", "add it"),
    "another kind of datasource": (
        variable("datasource", query="loki"),
        "variable datasource",
        "Prometheus",
        "make it",
    ),
    "a variable that is no query": (variable("job", type="custom"), "variable job", "type is 'custom'", '"query"'),
    "a variable of one value": (variable("job", multi=False), "variable job", "only one value", "set multi"),
    "a variable whose all is nothing": (variable("job", allValue=""), "variable job", "all of them", "allValue"),
    "a variable without all": (variable("node", includeAll=False), "variable node", "all of them", "includeAll"),
    "a variable that is read once": (
        variable("instance", refresh=1),
        "variable instance",
        "refresh is 1",
        "set it to 2",
    ),
    "no title": (setting("title", ""), "panel 1", "no title", "name the quantity"),
    "no description": (setting("description", ""), TITLE, "no description", "say"),
    "a title without a unit": (setting("title", "Failing"), "Failing", "no unit", "parentheses"),
    "a title without a window": (setting("title", "Failing (%)"), "Failing (%)", "no window", "now"),
    "a title that does not fit": (
        setting("title", "Share of all items that fail (%, now)"),
        "Share of all items that fail (%, now)",
        "37 characters",
        "30",
    ),
    "no target": (setting("targets", []), TITLE, "queries nothing", "target"),
    "an unknown unit": (bad_unit, TITLE, "unit is 'furlongs'", "percentunit"),
    "a fixed data source": (setting("datasource", {"uid": "abc"}), TITLE, "data source", "${datasource}"),
    "the same id twice": (
        same_id,
        f"{TITLE}, Attempt duration (mean, now)",
        "2 panels have the id",
        "give each its own",
    ),
    "the same query id twice": (same_ref, TITLE, "2 queries are called A", "refId"),
    "a query that does not parse": (query("sum("), TITLE, "cannot be parsed", "sum("),
    "an unknown metric": (query(f"flowrt_itmes_total{{{CHOSEN}}}"), TITLE, "in no catalogue", "catalogue.py"),
    "not narrowed by job": (query('flowrt_items_inflight{instance=~"$instance"}'), TITLE, "$job", 'job=~"$job"'),
    "not narrowed by instance": (query('flowrt_items_inflight{job=~"$job"}'), TITLE, "$instance", "instance=~"),
    "narrowed by equality": (
        query('flowrt_items_inflight{job="$job", instance=~"$instance"}'),
        TITLE,
        "not narrowed by $job",
        'job=~"$job"',
    ),
    "a counter as it is": (query(f"sum(flowrt_items_total{{{CHOSEN}}})"), TITLE, "is a counter", "rate("),
    "a counter in another function": (
        query(f"delta(flowrt_items_total{{{CHOSEN}}}[5m])"),
        TITLE,
        "is a counter",
        "rate(",
    ),
    "a bucket as it is": (
        query(f"histogram_quantile(0.9, flowrt_item_duration_seconds_bucket{{{CHOSEN}}})"),
        TITLE,
        "flowrt_item_duration_seconds_bucket is a counter",
        "rate(",
    ),
    "a rate over a range of its own": (
        query(f"rate(flowrt_items_total{{{CHOSEN}}}[5m])"),
        TITLE,
        "fixed range",
        "$__rate_interval",
    ),
    "a rate over the time shown": (
        query(f"rate(flowrt_items_total{{{CHOSEN}}}[$__range])"),
        TITLE,
        "fixed range",
        "$__rate_interval",
    ),
    "a variable that is not there": (
        query(f'flowrt_items_inflight{{{CHOSEN}, batch=~"$pile"}}'),
        TITLE,
        "$pile is no variable",
        "define pile",
    ),
    "series coloured by their order": (line_colour(mode="palette-classic"), QUEUE_WAIT, "palette-classic", "status"),
    "a green series": (line_colour(mode="fixed", fixedColor="green"), QUEUE_WAIT, "can be green", "neutral"),
    "series that are green by their value": (green_step, QUEUE_WAIT, "can be green", "neutral"),
    "a series per name": (series_per_name, QUEUE_WAIT, "a series per name", "`largest`"),
    "the largest of each moment": (largest_of_each_moment, QUEUE_WAIT, "a series per name", "`largest`"),
    "a careless annotation": (bad_annotation, "annotation Alerts", "not narrowed by $job", 'job=~"$job"'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_problem_is_found_with_its_place_and_fix(name: str) -> None:
    breaks, panel, wrong, fix = BROKEN[name]
    board = copy.deepcopy(BOARDS[FILE])
    breaks(board)
    found = lint({FILE: board}, whole=False)
    assert [
        each for each in found if (each.file, each.panel) == (FILE, panel) and wrong in each.wrong and fix in each.fix
    ]


def test_dashboards_have_no_findings() -> None:
    assert lint(BOARDS) == []


def test_metric_without_a_panel_is_found() -> None:
    boards = copy.deepcopy(BOARDS)
    panel_of(boards[FILE], "Circuit (now)")["targets"][0]["expr"] = f"flowrt_items_inflight{{{CHOSEN}}}"
    (found,) = lint(boards)
    assert found == Finding(
        "all dashboards",
        "flowrt_circuit_state",
        "no panel shows it",
        "add it to a panel, or remove it from the catalogue",
    )


def test_link_without_a_target_is_found() -> None:
    boards = copy.deepcopy(BOARDS)
    panel_of(boards[FILE])["links"][0]["url"] = "/d/flowrt-gone/?viewPanel=1"
    (found,) = lint(boards)
    assert (found.file, found.panel) == (FILE, TITLE)
    assert "flowrt-gone" in found.wrong


def test_rules_know_recorded_series_and_subqueries() -> None:
    board = copy.deepcopy(BOARDS[FILE])
    growth = f"max_over_time(rate(flowrt_items_total{{{CHOSEN}}}[$__rate_interval])[1h:])"
    fine = f'{growth} or job_batch:flowrt_items_ended:rate5m{{job=~"$job"}}'
    query(fine)(board)
    assert lint({FILE: board}, whole=False) == []
    query(f"max_over_time(flowrt_items_total{{{CHOSEN}}}[1h:])")(board)
    assert ["is a counter" in each.wrong for each in lint({FILE: board}, whole=False)] == [True]


def test_command_prints_findings_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = copy.deepcopy(BOARDS[FILE])
    setting("description", "")(board)
    (tmp_path / FILE).write_text(json.dumps(board))
    assert main([str(tmp_path / FILE)]) == 1
    said = capsys.readouterr()
    assert said.out == f"{FILE}: {TITLE}: it has no description; say what it means and what to do about a bad value\n"
    assert main([str(tmp_path / "none.json")]) == 2
    (tmp_path / "bad.json").write_text("{")
    assert main([str(tmp_path / "bad.json")]) == 2


def test_module_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dashboards.generator.lint"],
        check=False,
        capture_output=True,
        text=True,
        cwd=FOLDER.parent,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "7 dashboards, 0 findings\n")
