"""Tests of rules and queries that Prometheus's promtool runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from dashboards.generator.alerts import alert_groups
from dashboards.generator.files import FOLDER, rule_files
from dashboards.generator.recording import recording_groups

__all__ = ["ORDER", "RULES", "assert_passes"]

RULES = [str(FOLDER / "prometheus" / name) for name in rule_files()]

ORDER = [
    "flowrt.objectives",
    *(group["name"] for groups in (recording_groups(), alert_groups()) for group in groups["groups"]),
]
"""Recording rules before the alerts that read them: after a long interval, the values would be too old."""


def assert_passes(promtool: str, folder: Path, groups: list[dict[str, Any]], rules: list[str] = RULES) -> None:
    """Run promtool on the groups, with one evaluation per scrape."""
    files = []
    for interval in {group["interval"] for group in groups}:
        file = folder / f"{interval}.yaml"
        chosen = [group for group in groups if group["interval"] == interval]
        content = {"rule_files": rules, "evaluation_interval": interval, "group_eval_order": ORDER, "tests": chosen}
        file.write_text(yaml.safe_dump(content))
        files.append(str(file))
    done = subprocess.run([promtool, "test", "rules", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
