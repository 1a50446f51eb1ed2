"""`flowrt bench` as a separate process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Flowrt

QUICK = ("--step", "0.4", "--passes", "1", "--quiet")

SERVICE = """
import asyncio

async def quick(item):
    await asyncio.sleep(0.01)
    return item

async def slower(item):
    await asyncio.sleep(0.1)  # far slower than the other one, even if that one was measured on a busy machine
    return item

async def broken(item):
    raise ConnectionError("refused")

async def leaves(item):
    raise SystemExit(0)

class Client:
    async def __aenter__(self):
        print("opened")
    async def __aexit__(self, *exc):
        print("closed")
    async def __call__(self, item):
        return item

running = 0

async def hangs(item):  # beside another item
    global running
    running += 1
    if running > 1:
        await asyncio.Event().wait()
    await asyncio.sleep(0.01)
    running -= 1
"""


@pytest.fixture(autouse=True)
def _service(folder: Path) -> None:
    (folder / "service.py").write_text(SERVICE)
    (folder / "in.jsonl").write_text("\n".join(map(str, range(20))))


def test_bench_measures_prints_and_writes_files(flowrt: Flowrt, folder: Path) -> None:
    done = flowrt(
        "bench", "service:quick", "in.jsonl", "--concurrency", "1,2,8", *QUICK, "--step", "1.2",
        "--json", "run.json", "--html", "run.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["at", "once", "items/s", "±", "p50", "p95", "p99", "max", "failed"]
    assert "best: 8 at once gives" in done.stdout
    assert "Universal Scalability Law" in done.stdout
    data: dict[str, Any] = json.loads((folder / "run.json").read_text())
    assert [step["setting"] for step in data["steps"]] == [1, 2, 8]
    assert data["best"] == 8
    page = (folder / "run.html").read_text()
    assert "service:quick" in page
    assert "http://" not in page.split("<style>")[0]


def test_node_with_aenter_and_aexit_is_open_during_the_measurement(flowrt: Flowrt) -> None:
    done = flowrt("bench", "service:Client", "in.jsonl", "--concurrency", "2", *QUICK)
    words = done.stdout.split()
    assert words.count("opened") == words.count("closed") == 1
    assert words.index("opened") < words.index("closed") < len(words) - 2


def test_run_worse_than_the_baseline_exits_1(flowrt: Flowrt) -> None:
    options = ("in.jsonl", "--concurrency", "4", *QUICK, "--step", "2")  # long beside the pauses of a busy machine
    first = flowrt("bench", "service:quick", *options, "--json", "a.json")
    assert first.returncode == 0, first.stderr
    second = flowrt("bench", "service:slower", *options, "--baseline", "a.json")
    assert second.returncode == 1
    assert "verdict: worse than the baseline" in second.stdout
    assert re.search(r"worse at 4: (throughput|latency)", second.stdout)
    assert "the baseline's node was service:quick, and now it is service:slower" in second.stdout


def test_json_on_stdout_contains_the_verdict(flowrt: Flowrt, folder: Path) -> None:
    quick = ("bench", "service:quick", "in.jsonl", "--concurrency", "4", *QUICK)
    first = flowrt(*quick, "--json", "-")
    assert first.returncode == 0, first.stderr
    data = json.loads(first.stdout)
    assert data["verdict"] is None
    assert data["executor"] == "loop"
    assert "best: 4 at once gives" in first.stderr
    (folder / "a.json").write_text(first.stdout)
    second = flowrt(*quick, "--baseline", "a.json", "--json", "b.json", "--html", "b.html")
    assert second.returncode in (0, 1), second.stderr  # a loaded machine may be worse
    data = json.loads((folder / "b.json").read_text())
    assert [change["what"] for change in data["verdict"]["changes"]] == ["throughput", "latency", "failures"]
    assert "Beside the baseline" in (folder / "b.html").read_text()


def test_search_without_a_common_setting_still_writes_its_figures(flowrt: Flowrt, folder: Path) -> None:
    first = flowrt("bench", "service:quick", "in.jsonl", "--concurrency", "77", *QUICK, "--json", "a.json")
    assert first.returncode == 0, first.stderr
    words = ("bench", "service:quick", "in.jsonl", "--most-concurrency", "4", *QUICK)
    second = flowrt(*words, "--baseline", "a.json", "--json", "b.json")
    assert second.returncode == 1
    assert "not compared with a.json: it has no setting in common with this run: it has 77" in second.stdout
    assert json.loads((folder / "b.json").read_text())["steps"]


def test_node_that_exits_the_process_is_an_error(flowrt: Flowrt) -> None:
    done = flowrt("bench", "service:leaves", "in.jsonl", *QUICK)
    assert done.returncode == 2
    assert "the node raised SystemExit(0): a node must not end the process" in done.stderr


def test_failing_node_has_no_best_setting(flowrt: Flowrt) -> None:
    done = flowrt("bench", "service:broken", "in.jsonl", *QUICK)
    assert done.returncode == 1
    assert "no setting stayed within the budget" in done.stdout
    assert "ConnectionError" in done.stdout
    assert "stopped: too many items failed" in done.stdout


def test_arrival_rates_select_an_open_loop(flowrt: Flowrt) -> None:
    done = flowrt("bench", "service:quick", "in.jsonl", "--arrival-rate", "20,50", *QUICK)
    assert done.returncode in (0, 1), done.stderr  # a loaded machine may not keep up
    assert done.stdout.splitlines()[0].split()[:2] == ["arrive/s", "items/s"]


def test_signal_ends_bench_and_prints_the_measured_steps(
    command: tuple[list[str], dict[str, str]], folder: Path
) -> None:
    words, environment = command
    process = subprocess.Popen(
        [*words, "bench", "service:quick", "in.jsonl", "--concurrency", "1,2,4", "--step", "5", "--passes", "1"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    process.stderr.readline()  # the first step
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "not measured: 4" in out
    assert len(out.splitlines()[1].split()) > 5


def test_signal_while_items_hang_prints_the_measured_steps(
    command: tuple[list[str], dict[str, str]], folder: Path
) -> None:
    words, environment = command
    process = subprocess.Popen(
        [*words, "bench", "service:hangs", "in.jsonl", "--concurrency", "1,2", "--step", "0.2", "--json", "run.json"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    process.stderr.readline()  # the first step; the second one hangs
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)  # once: after a second signal, a busy machine may not get to the figures
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: " in out
    assert json.loads((folder / "run.json").read_text())["steps"][0]["setting"] == 1


@pytest.mark.parametrize(
    ("words", "expected", "code"),
    [
        (["service:quick", "no.jsonl"], "'no.jsonl' does not exist", 2),
        (["service:nobody", "in.jsonl"], "has no attribute 'nobody'", 2),
        (["service:quick", "in.jsonl", "--concurrency", "1,x"], "'1,x' is not a list of numbers", 2),
        (["service:quick", "in.jsonl", "--concurrency", "0"], "--concurrency 0: each is 1 or more, like 1,2,5,10", 2),
        (["service:quick", "in.jsonl", "--concurrency", "2,2"], "given twice", 2),
        (["service:quick", "in.jsonl", "--arrival-rate", "nan"], "--arrival-rate nan: each is a positive number", 2),
        (["service:quick", "in.jsonl", "--concurrency", "1", "--arrival-rate", "1"], "give one of them", 2),
        (
            ["service:quick", "in.jsonl", "--concurrency", "auto", "--arrival-rate", "5"],
            "--concurrency auto and --arrival-rate 5 are separate measurements: pass one of them",
            2,
        ),
        (["service:quick", "in.jsonl", "--json", "x", "--html", "x"], "are both 'x': name two files", 2),
        (["service:quick", "in.jsonl", "--baseline", "other.json"], "it is not what --json writes", 65),
        (["service:quick", "in.jsonl", "--latency-budget", "soon"], "'soon' is no latency budget", 2),
        (["service:quick", "in.jsonl", "--error-budget", "120%"], "is not a share", 2),
        (["service:quick", "in.jsonl", "--duration", "0"], "duration", 2),
        (["service:quick", "in.jsonl", "--json", "no/x.json"], "'no/x.json' cannot be written", 2),
        (["service:quick", "in.jsonl", "--json", "in.jsonl"], "'in.jsonl' exists: pass --overwrite", 2),
        (["service:quick", "in.jsonl", "--baseline", "no.json"], "'no.json' does not exist", 2),
        (["service:quick", "in.jsonl", "--baseline", "in.jsonl"], "cannot be read", 65),
        (["service:quick", "empty.jsonl"], "empty.jsonl has no items", 65),
        (["service:quick", "bad.jsonl"], "line 2: not JSON", 65),
    ],
)
def test_bench_usage_error_is_one_line_before_anything_runs(
    words: list[str], expected: str, code: int, flowrt: Flowrt, folder: Path
) -> None:
    (folder / "empty.jsonl").write_text("")
    (folder / "bad.jsonl").write_text("1\n{\n")
    (folder / "other.json").write_text('{"items": 3}')
    done = flowrt("bench", *words)
    assert (done.returncode, expected in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
