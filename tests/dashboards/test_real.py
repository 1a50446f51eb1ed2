"""A real Prometheus scrapes batches that fail, retry and block the loop: panels have data, and alerts really fire."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from dashboards.generator.files import FOLDER
from dashboards.generator.filled import filled
from dashboards.generator.lint.findings import panels_of
from dashboards.generator.servers import Api, Servers
from dashboards.generator.windows import Time

pytestmark = [pytest.mark.parts, pytest.mark.xdist_group("dashboards")]

ROOT = FOLDER.parent
BOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
}
PANELS = [
    pytest.param(panel, id=f"{name}:{panel['title']}")
    for name, board in BOARDS.items()
    for panel in panels_of(board)
    if panel.get("targets")
]
FASTER = 75
SCRAPE_S = 0.5
INTERVAL, SPAN = "4s", "60s"
PATIENCE_S = 60.0


class Scraped:
    """The trial, the Prometheus that watches it, and its Alertmanager.

    Args:
        servers: Both of them.
        began_s: When the trial began, in seconds since 1970.
    """

    def __init__(self, servers: Servers, began_s: float) -> None:
        self.servers = servers
        self.api: Api = servers.prometheus
        self.began_s = began_s

    def until(self, query: str, what: str) -> list[dict[str, Any]]:
        """Wait until a query gives something."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := self.api.series(query)):
            assert time.monotonic() < deadline, f"never: {what} ({query})"
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("real")
    began_s = time.time()
    trial = subprocess.Popen(
        [sys.executable, "-m", "dashboards.generator.trial"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert trial.stdout is not None
        target = urlsplit(trial.stdout.readline()).netloc
        with Servers(folder, [target], scrape_s=SCRAPE_S, time=Time(FASTER)) as servers:
            found = Scraped(servers, began_s)
            found.until('flowrt_batch_last_success_timestamp_seconds{batch="invoices"} > 0', "a batch has succeeded")
            found.until('flowrt_item_hedges_total{outcome="won"} > 0', "a hedge has won")
            found.until("sum(flowrt_telemetry_dropped_total) > 0", "spans were dropped")
            found.until("job_batch:flowrt_item_failures:ratio_rate30d", "the budget has been recorded")
            found.until('ALERTS{alertname="FlowrtItemErrorBudgetBurn", alertstate="firing"}', "the budget burns")
            yield found
    finally:
        trial.kill()
        trial.communicate(timeout=PATIENCE_S)


def results(scraped: Scraped, target: dict[str, Any]) -> list[dict[str, Any]]:
    """What a panel's query gives; on a loaded machine a scrape may come late, so it is asked again for a while."""
    expr = filled(target["expr"], interval=INTERVAL, span=SPAN)
    deadline = time.monotonic() + PATIENCE_S / 3
    while True:
        now = time.time()
        found = scraped.api.series(expr) if target.get("instant") else scraped.api.ranged(expr, now - 20, now, 1)
        known = any(math.isfinite(value) for series in found for value in values_of(series))
        if known or time.monotonic() > deadline:  # a quantile is known when something has ended within its window
            return found
        time.sleep(0.3)


def values_of(series: dict[str, Any]) -> list[float]:
    return [float(value) for _, value in series.get("values", [series.get("value")])]


@pytest.mark.parametrize("panel", PANELS)
def test_each_query_of_the_panel_returns_data_of_the_right_shape(panel: dict[str, Any], scraped: Scraped) -> None:
    for target in panel["targets"]:
        found = results(scraped, target)
        assert found, target["expr"]
        assert any(math.isfinite(value) for series in found for value in values_of(series)), found
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert all(label in series["metric"] for series in found), (label, found)
    match panel["type"]:
        case "stat":
            latest = results(scraped, {**panel["targets"][0], "instant": True})
            assert len(latest) <= 1, "a large number is one number"
        case "heatmap":
            assert len({series["metric"]["le"] for series in found}) > 5
        case "table":
            (organised,) = [each for each in panel["transformations"] if each["id"] == "organize"]
            columns = [name for name in organised["options"]["indexByName"] if not name.startswith("Value")]
            first = results(scraped, panel["targets"][0])
            shown = set.union(*(set(series["metric"]) for series in first))
            assert shown <= {*columns, "__name__"}, "a label has no column"
            assert shown & set(columns)


@pytest.mark.parametrize("name", [name for name in BOARDS if BOARDS[name].get("templating", {}).get("list")])
def test_each_variable_offers_values(name: str, scraped: Scraped) -> None:
    for variable in BOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match is not None
            selector = filled(match[1], interval=INTERVAL, span=SPAN)
            offered = scraped.api.get(f"label/{match[2]}/values", **{"match[]": selector})
            assert offered, variable["name"]
            if variable["name"] == "batch":
                assert offered == ["airports", "invoices", "photos"]


def test_choosing_a_batch_narrows_what_is_shown(scraped: Scraped) -> None:
    (panel,) = [panel for panel in panels_of(BOARDS["flowrt-overview"]) if panel["title"] == "Failing, by node"]
    expr = filled(panel["targets"][0]["expr"], interval=INTERVAL, span=SPAN, chosen={"batch": "airports"})
    assert {series["metric"]["node"] for series in scraped.api.series(expr)} == {"enrich"}


def test_the_worst_node_and_its_error_stand_out(scraped: Scraped) -> None:
    titles = {panel["title"]: panel for panel in panels_of(BOARDS["flowrt-overview"])}
    failing = results(scraped, titles["Nodes, the worst first"]["targets"][0])
    worst = max(failing, key=lambda series: float(series["value"][1]))
    assert worst["metric"]["node"] == "enrich"
    assert 0.05 < float(worst["value"][1]) < 0.5
    errors = results(scraped, titles["Why items fail"]["targets"][0])
    most = max(errors, key=lambda series: float(series["value"][1]))
    assert (most["metric"]["node"], most["metric"]["error_type"]) == ("enrich", "ConnectionResetError")


def test_batch_starts_and_alerts_are_annotated(scraped: Scraped) -> None:
    for annotation in BOARDS["flowrt-overview"]["annotations"]["list"]:
        now = time.time()
        expr = filled(annotation["expr"], interval=INTERVAL, span=SPAN)
        assert scraped.api.ranged(expr, now - 15, now, 1), annotation["name"]


def test_exemplars_come_back_with_traces(scraped: Scraped) -> None:
    wanted = [
        target
        for board in BOARDS.values()
        for p in panels_of(board)
        for target in p.get("targets", [])
        if target.get("exemplar")
    ]
    assert len(wanted) >= 3
    for target in wanted:
        expr = filled(target["expr"], interval=INTERVAL, span=SPAN)
        found = scraped.api.exemplars(expr, scraped.began_s, time.time())
        traces = [exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]]
        assert traces, expr
        assert all(re.fullmatch(r"[0-9a-f]{32}", trace) for trace in traces)


def test_the_burning_budget_is_told_at_alertmanager(scraped: Scraped) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        burning = [
            alert
            for alert in scraped.servers.alerts()
            if alert["labels"]["alertname"] == "FlowrtItemErrorBudgetBurn" and alert["labels"]["long"] == "1h"
        ]
        if burning:
            break
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)
    (alert,) = burning
    assert alert["labels"].items() >= {"batch": "airports", "severity": "critical", "short": "5m"}.items()
    assert re.fullmatch(r"[\d.]+% of the items of batch airports fail", alert["annotations"]["summary"])
    assert alert["annotations"]["runbook_url"] == "http://localhost:3000/d/flowrt-runbooks/?viewPanel=1"
    assert alert["annotations"]["dashboard_url"].endswith("/d/flowrt-slo/?var-job=flowrt&var-batch=airports")


def test_the_healthy_batches_burn_nothing(scraped: Scraped) -> None:
    burning = {alert["labels"].get("batch") for alert in scraped.servers.alerts() if "long" in alert["labels"]}
    assert burning <= {"airports"}


def test_every_rule_is_well(scraped: Scraped) -> None:
    groups = scraped.api.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 40
    assert {(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"} == set()


def test_promtool_has_nothing_to_say_about_what_is_scraped(scraped: Scraped, promtool: str) -> None:
    (target,) = scraped.api.get("targets")["activeTargets"]
    with urllib.request.urlopen(target["scrapeUrl"], timeout=PATIENCE_S) as response:  # noqa: S310
        page = response.read()
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
