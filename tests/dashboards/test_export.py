"""`flowrt dashboards export` writes the files of the package, which equal the generator's."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dashboards.generator.__main__ import main as generate_command
from dashboards.generator.files import FOLDER, generate, write, written
from flowrt.cli.main import main

EDITED = "prometheus/flowrt.objectives.yaml"


def export(*args: str) -> Result:
    return CliRunner().invoke(main, ["dashboards", "export", *args])


def test_generated_files_are_up_to_date() -> None:
    assert written(FOLDER) == generate(), "run: make dashboards"
    assert generate_command(["--check"]) == 0


def test_export_writes_every_file(tmp_path: Path) -> None:
    done = export(str(tmp_path / "out"))
    assert (done.exit_code, done.stderr) == (0, f"{len(generate()) + 1} files written to {tmp_path / 'out'}\n")
    assert written(tmp_path / "out") == generate()
    assert (tmp_path / "out" / "compose.yaml").read_text() == (FOLDER / "compose.yaml").read_text()


def test_second_export_changes_nothing(tmp_path: Path) -> None:
    assert export(str(tmp_path)).exit_code == 0
    assert export(str(tmp_path)).exit_code == 0


def test_changed_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    export(str(tmp_path))
    rules = tmp_path / "prometheus" / "flowrt.alerts.yaml"
    rules.write_text("mine")
    refused = export(str(tmp_path))
    assert refused.exit_code == 2
    assert "prometheus/flowrt.alerts.yaml" in refused.stderr
    assert "--force" in refused.stderr
    assert rules.read_text() == "mine"
    assert export(str(tmp_path), "--force").exit_code == 0
    assert rules.read_text() != "mine"


def test_force_keeps_the_edited_objectives(tmp_path: Path) -> None:
    export(str(tmp_path))
    (tmp_path / EDITED).write_text("mine")
    done = export(str(tmp_path), "--force")
    assert f"{EDITED} was kept" in done.stderr
    assert (tmp_path / EDITED).read_text() == "mine"


def test_links_of_alerts_lead_to_the_given_grafana(tmp_path: Path) -> None:
    assert export(str(tmp_path), "--grafana-url", "https://g.example.com/grafana/").exit_code == 0
    alerts = (tmp_path / "prometheus" / "flowrt.alerts.yaml").read_text()
    assert "runbook_url: https://g.example.com/grafana/d/flowrt-runbooks/?viewPanel=1" in alerts
    assert "localhost" not in alerts


@pytest.mark.parametrize("url", ["grafana", "ftp://a", "https://", "https://a/?x=1"])
def test_invalid_address_is_refused(url: str, tmp_path: Path) -> None:
    done = export(str(tmp_path / "out"), "--grafana-url", url)
    assert done.exit_code == 2
    assert url in done.stderr
    assert not (tmp_path / "out").exists()


def test_unwritable_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "grafana").write_text("a file")
    done = export(str(tmp_path))
    assert done.exit_code == 2
    assert done.stderr.startswith(f"flowrt: cannot write to {tmp_path}: ")


def test_check_names_the_files_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    write(tmp_path)
    (tmp_path / "prometheus" / "flowrt.alerts.yaml").write_text("changed")
    (tmp_path / "grafana" / "stray.json").write_text("{}")
    monkeypatch.setattr("dashboards.generator.__main__.FOLDER", tmp_path)
    assert generate_command(["--check"]) == 1
    assert sorted(write(tmp_path)) == ["grafana/stray.json", "prometheus/flowrt.alerts.yaml"]
    assert generate_command(["--check"]) == 0
    assert generate_command(["--what"]) == 2
