"""A real Prometheus scrapes batches that fail, retry and block the loop: every panel has data and is drawn."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dashboards.generator.files import FOLDER
from dashboards.generator.filled import filled
from dashboards.generator.lint.findings import panels_of
from dashboards.generator.servers import Api, Servers
from dashboards.generator.windows import Time

pytestmark = [pytest.mark.parts, pytest.mark.xdist_group("dashboards"), pytest.mark.timeout(600)]

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
PATIENCE_S = 120.0


class Scraped:
    """Trial with the Prometheus that watches it, and Alertmanager.

    Args:
        servers: Prometheus and Alertmanager.
        began_s: Start of the trial, in seconds since 1970.
    """

    def __init__(self, servers: Servers, began_s: float) -> None:
        self.servers = servers
        self.api: Api = servers.prometheus
        self.began_s = began_s

    def until(self, query: str, what: str) -> list[dict[str, Any]]:
        """Wait until a query returns a series."""
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


def results(scraped: Scraped, target: dict[str, Any], interval: str = INTERVAL) -> list[dict[str, Any]]:
    """Return the answer to a panel's query; on a loaded machine a scrape may be late, so retry for a while.

    A percentile in a histogram's first bucket is not drawn; here the query without that limit must have data.
    """
    expr = re.sub(r" > [\d.]+$", "", filled(target["expr"], interval=interval, span=SPAN))
    deadline = time.monotonic() + PATIENCE_S / 3
    while True:
        now = time.time()
        found = scraped.api.series(expr) if target.get("instant") else scraped.api.ranged(expr, now - 20, now, 1)
        known = any(math.isfinite(value) for series in found for value in values_of(series))
        if known or time.monotonic() > deadline:  # a quantile is NaN while its window is empty
            return found
        time.sleep(0.3)


def values_of(series: dict[str, Any]) -> list[float]:
    return [float(value) for _, value in series.get("values", [series.get("value")])]


@pytest.mark.parametrize("panel", PANELS)
def test_every_query_of_the_panel_returns_data(panel: dict[str, Any], scraped: Scraped) -> None:
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
                assert offered == ["airports", "invoices", "photos", "quotes", "scans"]


def test_chosen_batch_narrows_the_panel(scraped: Scraped) -> None:
    (panel,) = [
        panel for panel in panels_of(BOARDS["flowrt-overview"]) if panel["title"] == "Items failing, by node (%)"
    ]
    expr = filled(panel["targets"][0]["expr"], interval=INTERVAL, span=SPAN, chosen={"batch": "airports"})
    assert {series["metric"]["node"] for series in scraped.api.series(expr)} == {"enrich"}


def test_worst_node_and_its_error_stand_out(scraped: Scraped) -> None:
    titles = {panel["title"]: panel for panel in panels_of(BOARDS["flowrt-overview"])}
    # in four seconds only the items that killed a worker may end
    failing = results(scraped, titles["Nodes, worst first (now)"]["targets"][0], interval="20s")
    worst = max(failing, key=lambda series: float(series["value"][1]))
    assert worst["metric"]["node"] == "enrich"
    assert 0.05 < float(worst["value"][1]) < 0.5
    errors = results(scraped, titles["Why items fail (per second, now)"]["targets"][0])
    most = max(errors, key=lambda series: float(series["value"][1]))
    assert (most["metric"]["node"], most["metric"]["error_type"]) == ("enrich", "ConnectionResetError")


def test_stat_and_table_agree_on_the_firing_alerts(scraped: Scraped) -> None:
    titles = {panel["title"]: panel for panel in panels_of(BOARDS["flowrt-slo"])}
    stat, table = (
        filled(titles[title]["targets"][0]["expr"], interval=INTERVAL, span=SPAN)
        for title in ("Alerts firing (now)", "Alerts that fire, one per row (now)")
    )
    same = 'count by (batch, severity) (ALERTS{alertname="FlowrtItemErrorBudgetBurn", alertstate="firing"}) > 1'
    scraped.until(same, "two pairs of windows agree on one batch")
    # One query, since an alert may start or stop firing between two.
    (difference,) = scraped.api.series(f"({stat}) - count({table})")
    assert float(difference["value"][1]) == 0


def test_no_series_is_named_none(scraped: Scraped) -> None:
    panels = [panel for board in BOARDS.values() for panel in panels_of(board) if "by node" in panel.get("title", "")]
    assert len(panels) >= 4
    for panel in panels:
        for series in results(scraped, panel["targets"][0]):
            assert series["metric"]["node"] != "none", panel["title"]


def test_series_of_known_values_have_a_fixed_colour(scraped: Scraped) -> None:
    for panel in (each.values[0] for each in PANELS if each.values[0]["type"] == "timeseries"):
        fixed = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]}
        for target in panel["targets"]:
            for label in ("status", "by", "reason", "outcome"):
                if target["legendFormat"] == f"{{{{{label}}}}}":
                    assert {series["metric"][label] for series in results(scraped, target)} <= fixed, panel["title"]


def test_every_panel_is_drawn_by_the_components_of_grafana(scraped: Scraped, tmp_path: Path) -> None:
    # Here rather than above: the browser is not installed on the second Python, which collects this module too.
    from dashboards.generator.pictures.drawing import Drawing, recorded
    from tools.browser import chromium

    with chromium() as browser:
        drawing = Drawing(browser, tmp_path)
        for name, board in BOARDS.items():
            now = time.time()
            picture = recorded(board, scraped.api, now - 20, now, {})
            assert drawing.draw(picture) == {}, name
        broken = drawing.draw({**picture, "board": {**board, "panels": [{**board["panels"][0], "type": "unheard-of"}]}})
    assert list(broken.values()) == ["Error: no way to draw a panel of type unheard-of"]


def test_batch_starts_and_alerts_are_annotated(scraped: Scraped) -> None:
    for annotation in BOARDS["flowrt-overview"]["annotations"]["list"]:
        now = time.time()
        expr = filled(annotation["expr"], interval=INTERVAL, span=SPAN)
        assert scraped.api.ranged(expr, now - 15, now, 1), annotation["name"]


def test_exemplars_have_trace_ids(scraped: Scraped) -> None:
    wanted = [
        target
        for board in BOARDS.values()
        for p in panels_of(board)
        for target in p.get("targets", [])
        if target.get("exemplar")
    ]
    assert len(wanted) >= 5
    for target in wanted:
        expr = filled(target["expr"], interval=INTERVAL, span=SPAN)
        found = scraped.api.exemplars(expr, scraped.began_s, time.time())
        traces = [exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]]
        assert traces, expr
        assert all(re.fullmatch(r"[0-9a-f]{32}", trace) for trace in traces)


def test_burning_budget_reaches_alertmanager(scraped: Scraped) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        burning = [
            alert
            for alert in scraped.servers.alerts()
            if alert["labels"]["alertname"] == "FlowrtItemErrorBudgetBurn" and alert["labels"]["long"] == "1h"
        ]
        if any(alert["labels"]["batch"] == "airports" for alert in burning):
            break
        assert time.monotonic() < deadline, "the alert did not arrive"
        time.sleep(0.2)
    (alert,) = [alert for alert in burning if alert["labels"]["batch"] == "airports"]
    assert alert["labels"].items() >= {"batch": "airports", "severity": "critical", "short": "5m"}.items()
    assert re.fullmatch(r"[\d.]+% of the items of batch airports fail", alert["annotations"]["summary"])
    assert alert["annotations"]["runbook_url"] == "http://localhost:3000/d/flowrt-runbooks/?viewPanel=1"
    assert alert["annotations"]["dashboard_url"].endswith("/d/flowrt-slo/?var-job=flowrt&var-batch=airports")


def test_healthy_batches_burn_no_budget(scraped: Scraped) -> None:
    burning = {alert["labels"].get("batch") for alert in scraped.servers.alerts() if "long" in alert["labels"]}
    assert burning <= {"airports", "quotes"}


def test_every_rule_is_healthy(scraped: Scraped) -> None:
    groups = scraped.api.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 40
    assert {(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"} == set()


def test_scraped_page_passes_the_linter_of_promtool(scraped: Scraped, promtool: str) -> None:
    (target,) = scraped.api.get("targets")["activeTargets"]
    with urllib.request.urlopen(target["scrapeUrl"], timeout=PATIENCE_S) as response:  # noqa: S310
        page = response.read()
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
