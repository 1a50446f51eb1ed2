"""`flowrt whatif`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flowrt import BatchProcessor
from flowrt.cli.main import main
from tests.conftest import Run


async def job(x: int) -> int:
    await asyncio.sleep(1.0)
    return x


@pytest.fixture
def recording(run_virtual: Run, tmp_path: Path) -> str:
    path = tmp_path / "run.parquet"
    run_virtual(BatchProcessor(job, 5, record=path).batch(range(100)))
    return str(path)


def flowrt(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


def test_whatif_prints_recorded_predicted_and_notes(recording: str) -> None:
    shown = flowrt("whatif", recording, "--max-concurrency", "20", "--price", "0.5")
    assert shown.exit_code == 0
    (makespan,) = [line for line in shown.stdout.splitlines() if line.startswith("makespan")]
    assert makespan.split() == ["makespan", "20.0", "s", "5.00", "s", "-75.0", "%"]
    (cost,) = [line for line in shown.stdout.splitlines() if line.startswith("cost")]
    assert cost.split() == ["cost", "50.00", "50.00", "="]
    assert "assumes latency independent of load" in shown.stdout


def test_whatif_replays_a_rate_limit(recording: str) -> None:
    data = json.loads(flowrt("whatif", recording, "--rate", "2/s", "--json").stdout)
    assert data["predicted"]["makespan"] == pytest.approx(50.5, abs=0.6)
    assert data["predicted"]["throttled"] > 100


def test_sweep_draws_the_curve_and_marks_the_knee(recording: str) -> None:
    shown = flowrt("whatif", recording, "--sweep", "max-concurrency=10,5,20,100,200")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["5", "10", "20", "100", "200"]
    assert lines[2].count("█") > lines[3].count("█") > lines[4].count("█")
    assert sum("<- knee" in line for line in lines) == 1
    assert "<- knee" in lines[5]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--sweep", "max-concurrency=0,1"),
        ("--sweep", "speed=1"),
        ("--sweep", "max-concurrency="),
        ("--rate", "2/s", "--no-rate"),
        ("--hedge", "p95", "--no-hedge"),
        ("--item-timeout", "1", "--no-item-timeout"),
        ("--item-timeout", "nan"),
        ("--max-concurrency", "0"),
        ("--rate", "fast"),
        ("--hedge", "p200"),
    ],
)
def test_contradictory_whatif_options_are_bad_usage(recording: str, arguments: tuple[str, ...]) -> None:
    assert flowrt("whatif", recording, *arguments).exit_code == 2


def test_empty_recording_cannot_be_replayed(run_virtual: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    run_virtual(BatchProcessor(job, 5, record=path).batch([]))
    shown = flowrt("whatif", str(path))
    assert shown.exit_code == 65
    assert "holds no attempt that ran" in shown.stderr
