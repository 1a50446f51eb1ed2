"""Every alert fires when it should and is silent when it should be, as Prometheus's own promtool finds."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.generator.alerts import alert_groups
from dashboards.generator.files import FOLDER, rule_files
from dashboards.generator.links import ALERTS, GRAFANA, runbook_path
from dashboards.generator.recording import recording_groups
from dashboards.generator.windows import Time, seconds
from tests.dashboards.rulecases import AT_ANY_TIME, CASES, IDLE, Case

pytestmark = pytest.mark.parts

RULES = [str(FOLDER / "prometheus" / name) for name in rule_files()]

ORDER = [
    "flowrt.objectives",
    *(group["name"] for groups in (recording_groups(), alert_groups()) for group in groups["groups"]),
]
"""What alerts read is recorded first: where an interval is long, it is too old the next time."""


def group_of(case: Case) -> dict[str, Any]:
    """A case as promtool reads it."""
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


def assert_passes(promtool: str, folder: Path, groups: list[dict[str, Any]], rules: list[str] = RULES) -> None:
    """Let promtool test the groups, each evaluated as often as it was scraped."""
    files = []
    for interval in {group["interval"] for group in groups}:
        file = folder / f"{interval}.yaml"
        chosen = [group for group in groups if group["interval"] == interval]
        content = {"rule_files": rules, "evaluation_interval": interval, "group_eval_order": ORDER, "tests": chosen}
        file.write_text(yaml.safe_dump(content))
        files.append(str(file))
    done = subprocess.run([promtool, "test", "rules", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_it_fires_when_it_should_and_is_silent_when_it_should_be(alert: str, promtool: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case.alert == alert]
    words = " ".join(case.name for case in cases)
    assert "restart" in words
    assert "short batch" in words or alert in _NOT_OF_A_BATCH
    assert any(expected for case in cases for expected in case.fires.values())
    assert_passes(promtool, tmp_path, [group_of(case) for case in cases])


_NOT_OF_A_BATCH = ("FlowrtTelemetryDropped",)


def test_all_are_silent_on_an_idle_service(promtool: str, tmp_path: Path) -> None:
    group = group_of(Case("any", "an idle service", IDLE))
    firing = [{"expr": 'ALERTS{alertname=~"Flowrt.+"}', "eval_time": at, "exp_samples": []} for at in AT_ANY_TIME]
    assert_passes(promtool, tmp_path, [group | {"promql_expr_test": firing}])


@pytest.mark.parametrize("alert", ALERTS)
def test_what_it_tells_is_complete(alert: str, promtool: str, tmp_path: Path) -> None:
    (told,) = [(case, *item) for case in CASES if case.alert == alert for item in case.told.items()]
    case, moment, firing = told
    rule = next(
        rule
        for group in alert_groups()["groups"]
        for rule in group["rules"]
        if rule["alert"] == alert and rule["labels"].items() <= firing.labels.items()
    )
    annotations = {
        "summary": firing.summary,
        "description": firing.description,
        "runbook_url": GRAFANA + runbook_path(alert),
        "dashboard_url": GRAFANA + firing.dashboard,
    }
    # one rule alone, since promtool wants all instances of an alert, and objectives have four each
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump({"groups": [{"name": ORDER[-1], "rules": [rule]}]}))
    group = group_of(case) | {
        "promql_expr_test": [],
        "alert_rule_test": [
            {
                "alertname": alert,
                "eval_time": moment,
                "exp_alerts": [{"exp_labels": firing.labels, "exp_annotations": annotations}],
            }
        ],
    }
    files = [*(name for name in RULES if "alerts" not in name), str(tmp_path / "alone.yaml")]
    assert_passes(promtool, tmp_path, [group], files)


def test_a_wrong_expectation_is_found(promtool: str, tmp_path: Path) -> None:
    wrong = Case("FlowrtItemsUnaccounted", "upside down", {"flowrt_unaccounted_items{job='a'}": "2x9"}, {"5m": ()})
    with pytest.raises(AssertionError, match="FAILED"):
        assert_passes(promtool, tmp_path, [group_of(wrong)])


@pytest.mark.parametrize("factor", [1, 150])
def test_promtool_has_nothing_to_say_about_the_rules(factor: int, promtool: str, tmp_path: Path) -> None:
    for name, text in rule_files(Time(factor)).items():
        (tmp_path / name).write_text(text)
    files = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == 3


def test_promtool_has_nothing_to_say_about_the_settings(promtool: str) -> None:
    settings = FOLDER / "prometheus" / "prometheus.yml"
    done = subprocess.run([promtool, "check", "config", str(settings)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_says_what_to_do_and_where() -> None:
    for group in alert_groups()["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert {rule["alert"] for group in alert_groups()["groups"] for rule in group["rules"]} == set(ALERTS)


def test_each_alert_has_a_runbook_that_says_what_to_look_at_and_do() -> None:
    pages = {path.stem: path.read_text() for path in (FOLDER.parent / "docs" / "runbooks").glob("*.md")}
    assert set(pages) == set(ALERTS)
    for alert, page in pages.items():
        assert page.startswith(f"# {alert}\n")
        for heading in (
            "**What it means.**",
            "**Who is hurt.**",
            "**Look.**",
            "**Do.**",
            "**When it ends by itself.**",
        ):
            assert heading in page, (alert, heading)


@pytest.mark.parametrize("window", ["5", "1w", "m", "-5m", "1h30m"])
def test_a_window_that_cannot_be_read_is_refused(window: str) -> None:
    with pytest.raises(ValueError, match="a number and s, m, h or d"):
        seconds(window)
