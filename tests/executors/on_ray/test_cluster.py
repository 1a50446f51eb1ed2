"""Ray executor on a cluster that loses a node, or its head."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tools.ray_cluster import RayClusterProcess

ROOT = Path(__file__).parents[3]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A run with a journal of 800 items, of 20 ms each."""
    (tmp_path / "job.py").write_text(
        "import time\ndef work(item):\n    time.sleep(0.02)\n    return 2 * item['x']\n", "utf-8"
    )
    (tmp_path / "in.jsonl").write_text("".join(f'{{"x": {x}}}\n' for x in range(800)), "utf-8")
    options = ["in.jsonl", "-o", "out.jsonl", "--journal", "journal", "--max-concurrency", "50", "--quiet"]
    return [sys.executable, "-m", "flowrt", "run", "job:work", *options]


def start(command: list[str], folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    return subprocess.Popen([*command, *options], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_items(folder: Path) -> None:
    """Wait until the journal holds a hundred items."""
    journal = folder / "journal"
    until = time.monotonic() + 120
    while not journal.exists() or journal.stat().st_size < 8_000:
        assert time.monotonic() < until
        time.sleep(0.05)


def check_output(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").splitlines()]
    assert sorted((line["index"], line["output"]) for line in lines) == [(x, 2 * x) for x in range(800)]
    assert all(line["success"] and line["attempts"] == 1 for line in lines)


def test_lost_node_costs_no_item(command: list[str], tmp_path: Path) -> None:
    with RayClusterProcess(2, 2) as cluster:  # of four actors, two run on the node that is lost
        driver = start(command, tmp_path, "--executor", "ray", "--ray-address", cluster.address, "--workers", "4")
        wait_for_items(tmp_path)
        cluster.lose_node()
        _, errors = driver.communicate(timeout=120)
        assert cluster.processes()
    assert driver.returncode == 0, errors
    check_output(tmp_path)
    assert cluster.processes() == []


def test_entrypoint_of_the_manifest_runs_as_a_submitted_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "jobs.py").write_text("def score(item):\n    return 10 // item['x']\n", "utf-8")
    (tmp_path / "in.jsonl").write_text("".join(f'{{"x": {x}}}\n' for x in range(5)), "utf-8")
    manifest = yaml.safe_load((ROOT / "docs" / "kuberay-rayjob.yaml").read_text("utf-8"))
    entrypoint = manifest["spec"]["entrypoint"].replace("/data", str(tmp_path)).replace("--workers 16", "--workers 2")
    with RayClusterProcess(0, 2, job_server=True) as cluster:  # the head has no core, as in the manifest
        command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", cluster.job_address]
        command += ["--working-dir", str(tmp_path), "--", *shlex.split(entrypoint)]
        job = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert job.returncode == 0, job.stdout + job.stderr  # although the first item divides by 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    found = {line["index"]: line.get("output") for line in lines}
    assert found == {0: None, 1: 10, 2: 5, 3: 3, 4: 2}


LIBRARY = """
import asyncio, sys, time
import flowrt

def work(x):
    time.sleep(0.02)
    return x

async def main():
    executor = flowrt.RayExecutor(2, address=sys.argv[1])
    processor = flowrt.BatchProcessor(work, 20, executor=executor)
    async with processor.batch_as_completed(range(100_000)) as results:
        async for result in results:
            if result.index == 100:
                print("running", flush=True)

asyncio.run(main())
"""


def test_lost_head_ends_a_program_with_its_own_traceback(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LIBRARY, "utf-8")
    with RayClusterProcess(2) as cluster:
        program = subprocess.Popen(
            [sys.executable, str(tmp_path / "program.py"), cluster.address],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "running\n"
        cluster.lose_head()
        _, errors = program.communicate(timeout=180)
    assert program.returncode == 1
    assert f"ClusterLostError: the head of the Ray cluster at {cluster.address} is gone" in errors


def test_20_lost_head_ends_the_run_with_69_and_another_executor_resumes_it(command: list[str], tmp_path: Path) -> None:
    with RayClusterProcess(2) as cluster:
        driver = start(command, tmp_path, "--executor", "ray", "--ray-address", cluster.address)
        wait_for_items(tmp_path)
        lost = time.monotonic()
        cluster.lose_head()
        _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 69, errors
    assert time.monotonic() - lost < 30  # what is promised; Ray alone would take a minute
    assert f"the head of the Ray cluster at {cluster.address} is gone" in errors
    resumed = start(command, tmp_path, "--executor", "threads")
    _, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    check_output(tmp_path)
