"""Every alert fires and stays silent as intended, by Prometheus's promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.generator.alerts import alert_groups
from dashboards.generator.files import DASHBOARDS, FOLDER, rule_files
from dashboards.generator.links import ALERTS, GRAFANA, runbook_path
from dashboards.generator.windows import Time, seconds
from tests.dashboards.promtool import ORDER, RULES, assert_passes
from tests.dashboards.rulecases import AT_ANY_TIME, CASES, IDLE, Case, Firing

pytestmark = pytest.mark.parts


def group_of(case: Case) -> dict[str, Any]:
    """Return a case in promtool's form."""
    firing = f'count without (alertstate) (ALERTS{{alertname="{case.alert}", alertstate="firing"}})'
    return {
        "name": f"{case.alert}: {case.name}",
        "interval": case.interval,
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": firing,
                "eval_time": moment,
                "exp_samples": [
                    {"labels": _series({"alertname": case.alert, **labels}), "value": 1} for labels in expected
                ],
            }
            for moment, expected in case.fires.items()
        ],
    }


def _series(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_fires_and_stays_silent_as_intended(alert: str, promtool: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case.alert == alert]
    words = " ".join(case.name for case in cases)
    assert "restart" in words
    assert "short batch" in words or alert in _NOT_OF_A_BATCH
    assert any(expected for case in cases for expected in case.fires.values())
    assert_passes(promtool, tmp_path, [group_of(case) for case in cases])


_NOT_OF_A_BATCH = ("FlowrtTelemetryDropped",)


def test_every_alert_is_silent_on_an_idle_service(promtool: str, tmp_path: Path) -> None:
    group = group_of(Case("any", "an idle service", IDLE))
    firing = [{"expr": 'ALERTS{alertname=~"Flowrt.+"}', "eval_time": at, "exp_samples": []} for at in AT_ANY_TIME]
    assert_passes(promtool, tmp_path, [group | {"promql_expr_test": firing}])


TEXTS = [pytest.param(case, *texts, id=case.alert) for case in CASES for texts in case.texts.items()]


def test_texts_of_every_alert_are_tested() -> None:
    assert {case.alert for case in CASES if case.texts} == set(ALERTS)


@pytest.mark.parametrize(("case", "moment", "firing"), TEXTS)
def test_alert_has_its_texts_labels_and_links(
    case: Case, moment: str, firing: Firing, promtool: str, tmp_path: Path
) -> None:
    rule = next(
        rule
        for group in alert_groups()["groups"]
        for rule in group["rules"]
        if rule["alert"] == case.alert and rule["labels"].items() <= firing.labels.items()
    )
    annotations = {
        "summary": firing.summary,
        "description": firing.description,
        "runbook_url": GRAFANA + runbook_path(case.alert),
        "dashboard_url": GRAFANA + firing.dashboard,
    }
    # One rule alone: promtool compares all instances of an alert, and an objective has four.
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump({"groups": [{"name": ORDER[-1], "rules": [rule]}]}))
    group = group_of(case) | {
        "promql_expr_test": [],
        "alert_rule_test": [
            {
                "alertname": case.alert,
                "eval_time": moment,
                "exp_alerts": [{"exp_labels": firing.labels, "exp_annotations": annotations}],
            }
        ],
    }
    files = [*(name for name in RULES if "alerts" not in name), str(tmp_path / "alone.yaml")]
    assert_passes(promtool, tmp_path, [group], files)


def test_wrong_expectation_is_found(promtool: str, tmp_path: Path) -> None:
    wrong = Case("FlowrtItemsUnaccounted", "upside down", {"flowrt_unaccounted_items{job='a'}": "2x9"}, {"5m": ()})
    with pytest.raises(AssertionError, match="FAILED"):
        assert_passes(promtool, tmp_path, [group_of(wrong)])


@pytest.mark.parametrize("factor", [1, 150])
def test_rules_pass_the_linter_of_promtool(factor: int, promtool: str, tmp_path: Path) -> None:
    for name, text in rule_files(Time(factor)).items():
        (tmp_path / name).write_text(text)
    files = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == 3


def test_settings_pass_the_check_of_promtool(promtool: str) -> None:
    settings = FOLDER / "prometheus" / "prometheus.yml"
    done = subprocess.run([promtool, "check", "config", str(settings)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_texts_links_and_a_severity() -> None:
    for group in alert_groups()["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert {rule["alert"] for group in alert_groups()["groups"] for rule in group["rules"]} == set(ALERTS)


PAGES = {path.stem: path.read_text() for path in (FOLDER.parent / "docs" / "runbooks").glob("*.md")}
HEADINGS = ("**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Fix.**", "**Resolves**")


def test_every_alert_has_a_complete_runbook() -> None:
    assert set(PAGES) == set(ALERTS)
    for alert, page in PAGES.items():
        assert page.startswith(f"# {alert}\n")
        assert [heading for heading in HEADINGS if heading in page] == list(HEADINGS), alert


@pytest.mark.parametrize("alert", ALERTS)
def test_panels_in_runbooks_exist(alert: str) -> None:
    boards = {board.title.partition("/ ")[2]: board for board in (make() for make in DASHBOARDS)}
    # A quoted title belongs to the dashboard that stands in italics before it.
    on, seen = "", 0
    for name, title in re.findall(r'\*([A-Z][\w ]+)\*|"([^"=]+)"', " ".join(PAGES[alert].split())):
        if name in boards:
            on = name
        elif title and title != "threads":
            seen += 1
            assert title in {panel.title for panel in boards[on].panels or []}, (on, title)
    assert seen


@pytest.mark.parametrize("window", ["5", "1w", "m", "-5m", "1h30m"])
def test_invalid_window_is_refused(window: str) -> None:
    with pytest.raises(ValueError, match="a number and s, m, h or d"):
        seconds(window)
