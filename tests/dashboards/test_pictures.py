"""Pictures of the dashboards show Prometheus's answers with Grafana's names, and the documentation has each."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from dashboards.generator.files import FOLDER
from dashboards.generator.pictures import components
from dashboards.generator.pictures.answers import answers_of, marks_of
from dashboards.generator.servers import Api

ROOT = FOLDER.parent


class Recorded(Api):
    """Prometheus that gives every query the same answer and records the queries."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.asked: list[str] = []

    def series(self, expr: str) -> list[dict[str, Any]]:
        self.asked.append(expr)
        return [{"metric": {"node": "enrich"}, "value": [100, "7"]}]

    def ranged(self, expr: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        self.asked.append(expr)
        return [
            {"metric": {"node": "enrich", "status": "ok"}, "values": [[start_s, "1"], [end_s, "2"]]},
            {"metric": {"node": "price", "status": "ok"}, "values": [[start_s + 30, "1"]]},
        ]

    def exemplars(self, expr: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        return [{"exemplars": [{"timestamp": 101.0 + value, "value": str(value)} for value in range(100)]}]


def panel(**target: Any) -> dict[str, Any]:
    return {"panels": [{"id": 4, "type": "timeseries", "targets": [{"refId": "A", "expr": "up", **target}]}]}


def test_legend_names_the_series() -> None:
    (answer,) = answers_of(panel(legendFormat="{{node}}: {{gone}}"), Recorded(), 0, 60, {})["4"]
    assert [series["legend"] for series in answer["series"]] == ["enrich: ", "price: "]
    (answer,) = answers_of(panel(legendFormat="__auto"), Recorded(), 0, 60, {})["4"]
    assert answer["series"][0]["legend"] == '{node="enrich", status="ok"}'


def test_instant_query_has_one_value() -> None:
    (answer,) = answers_of(panel(instant=True), Recorded(), 0, 60, {})["4"]
    assert [series["values"] for series in answer["series"]] == [[[100, "7"]]]


def test_slowest_exemplars_are_kept() -> None:
    (answer,) = answers_of(panel(exemplar=True), Recorded(), 0, 60, {})["4"]
    assert answer["exemplars"][0] == (200.0, 99.0)
    assert len(answer["exemplars"]) == 60
    (answer,) = answers_of(panel(), Recorded(), 0, 60, {})["4"]
    assert answer["exemplars"] == []


def test_variables_are_filled_in() -> None:
    api = Recorded()
    expr = 'increase(a{job=~"$job", batch=~"$batch"}[$__range]) / rate(b[$__rate_interval])'
    answers_of(panel(expr=expr), api, 0, 60, {"batch": "airports"})
    assert api.asked == ['increase(a{job=~".+", batch=~"airports"}[60s]) / rate(b[10s])']


def test_mark_is_at_the_start_of_an_event() -> None:
    board = {"annotations": {"list": [{"name": "Alerts", "expr": "ALERTS"}]}}
    assert marks_of(board, Recorded(), 100, 200) == [{"at": 130.0, "colour": "#f2495c"}]


@pytest.mark.parametrize("name", ["overview", "batch", "small", "node", "runtime", "slo"])
def test_documentation_shows_a_picture_of_the_dashboard(name: str) -> None:
    picture = ROOT / "docs" / "pictures" / f"flowrt-{name}.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert f"(pictures/{picture.name})" in (ROOT / "docs" / "dashboards.md").read_text()


def test_components_are_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    commands = []

    def npm(command: list[str], *, cwd: Path, check: bool) -> None:
        commands.append(command[:2])
        (cwd / "node_modules").mkdir()

    monkeypatch.setattr(components.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(components.subprocess, "run", npm)
    folder = components.install()
    assert components.install() == folder
    assert commands == [["/bin/npm", "install"]]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_failed_installation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def npm(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "npm")

    monkeypatch.setattr(components.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(components.subprocess, "run", npm)
    with pytest.raises(subprocess.CalledProcessError):
        components.install()
    assert list((tmp_path / "flowrt").iterdir()) == []


def test_missing_npm_is_named_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(components.shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="npm is not installed: run tools/install-node"):
        components.install()
