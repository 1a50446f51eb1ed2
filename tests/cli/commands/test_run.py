"""`flowrt run` as a separate process: output, messages and exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import select
import signal
import socket
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards.generator.servers import free_port

Flowrt = Callable[..., "subprocess.CompletedProcess[str]"]
LinesOf = Callable[[Any], list[dict[str, Any]]]


def write_items(folder: Path, items: Any, name: str = "in.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


# -- what it writes ------------------------------------------------------------------------------------------------


def test_every_item_has_a_line_with_eight_fields(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, range(50))
    done = flowrt("run", "nodes:Double", "in.jsonl", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = lines_of(folder / "out.jsonl")
    assert [line["output"] for line in lines] == [2 * i for i in range(50)]
    assert list(lines[0]) == [
        "index", "success", "status", "output", "error", "error_type", "attempts", "execution_time",
    ]  # fmt: skip
    assert stat.S_IMODE((folder / "out.jsonl").stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["in.jsonl", "nodes.py", "out.jsonl"]


CLIENT = """
import flowrt

class Client:
    async def __aenter__(self):
        self.opened = True
        print("opened")

    async def __aexit__(self, *exc):
        print("closed")

    async def __call__(self, item):
        return self.opened and 10 // item

class ClientNode(Client, flowrt.BaseNode):
    def __init__(self):
        super().__init__("client")

    async def execute(self, node_context, workflow_context):
        return flowrt.NodeResult(True, await self(node_context.input_data))

class Broken(Client):
    async def __aenter__(self):
        raise OSError("no such host")
"""


@pytest.mark.parametrize("node", ["Client", "ClientNode"])
def test_node_with_aenter_and_aexit_is_open_during_the_run(
    folder: Path, flowrt: Flowrt, lines_of: LinesOf, node: str
) -> None:
    (folder / "clients.py").write_text(CLIENT)
    write_items(folder, [0, 1, 2])
    done = flowrt("run", f"clients:{node}", "in.jsonl", "-o", "out.jsonl", "--quiet")
    assert done.returncode == 1, done.stderr
    assert done.stdout.split() == ["opened", "closed"]
    assert [line["output"] for line in lines_of(folder / "out.jsonl")] == [None, 10, 5]


def test_node_that_cannot_be_opened_ends_the_run_with_its_error(folder: Path, flowrt: Flowrt) -> None:
    (folder / "clients.py").write_text(CLIENT)
    write_items(folder, [1])
    done = flowrt("run", "clients:Broken", "in.jsonl", "-o", "out.jsonl", "--quiet")
    assert done.returncode == 2
    assert done.stderr == ("flowrt: node 'Broken' could not be opened: its __aenter__ raised OSError: no such host\n")
    assert not (folder / "out.jsonl").exists()


def test_csv_and_parquet_are_recognized_by_extension(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "in.csv").write_text("city,pop\nOslo,1\nBergen,2\n")
    pq.write_table(pa.table({"city": ["Oslo", "Bergen"], "pop": [1, 2]}), folder / "in.parquet")
    for name, pop in (("in.csv", ["1", "2"]), ("in.parquet", [1, 2])):
        done = flowrt("run", "nodes:echo", name, "-o", "-", "--quiet")
        assert done.returncode == 0, done.stderr
        assert [line["output"] for line in lines_of(done.stdout)] == [
            {"city": city, "pop": n} for city, n in zip(["Oslo", "Bergen"], pop, strict=True)
        ]


def test_only_results_are_written_to_stdout(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, range(3))
    done = flowrt("run", "nodes:chatty", "in.jsonl", "-o", "-")
    assert done.returncode == 0
    assert [line["output"] for line in lines_of(done.stdout)] == [0, 1, 2]
    assert done.stderr.count("a word on stdout") == 3
    assert done.stderr.count("another, past Python") == 3


def test_standard_input_is_json_lines_by_default(flowrt: Flowrt, lines_of: LinesOf) -> None:
    assert lines_of(flowrt("run", "nodes:echo", "-", "-o", "-", stdin="1\n2\n").stdout)[1]["output"] == 2
    done = flowrt("run", "nodes:echo", "-", "-o", "-", "--input-format", "csv", stdin="a\n1\n")
    assert lines_of(done.stdout)[0]["output"] == {"a": "1"}


def test_invalid_line_is_one_failed_item_and_the_run_continues(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    (folder / "in.jsonl").write_bytes(
        b'1\n{"broken": \n\n"\xff"\nNaN\n' + b"[" * 200_000 + b"\n" + b"9" * 5000 + b"\n2\n"
    )
    done = flowrt("run", "nodes:echo", "in.jsonl", "-o", "out.jsonl")
    assert done.returncode == 1
    lines = lines_of(folder / "out.jsonl")
    assert [line["status"] for line in lines] == ["ok", "failed", "failed", "failed", "failed", "failed", "ok"]
    assert [line["error"].split(":")[0] for line in lines[1:-1]] == ["line 2", "line 4", "line 5", "line 6", "line 7"]
    assert [line["attempts"] for line in lines] == [1, 0, 0, 0, 0, 0, 1]
    assert lines[-1]["output"] == 2


def test_output_that_json_cannot_represent_is_still_ok(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, [1])
    done = flowrt("run", "nodes:nan", "in.jsonl", "-o", "-")
    assert (done.returncode, lines_of(done.stdout)[0]["output"]) == (0, None)


def test_results_are_written_as_items_complete(folder: Path, command: Any) -> None:
    words, environment = command
    process = subprocess.Popen(
        [*words, "run", "nodes:echo", "-", "-o", "-", "--quiet"],
        cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        for number in range(3):
            process.stdin.write(b"%d\n" % number)
            process.stdin.flush()
            assert select.select([process.stdout], [], [], 30)[0], "the result waited for the input's end"
            assert json.loads(process.stdout.readline())["output"] == number
        process.stdin.close()
    assert process.returncode == 0


# -- exit codes ----------------------------------------------------------------------------------------------------


def test_all_ok_exits_0_and_some_failed_exits_1(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, range(10))
    assert flowrt("run", "nodes:echo", "in.jsonl", "-o", "a").returncode == 0
    done = flowrt("run", "nodes:odd_fails", "in.jsonl", "-o", "b")
    assert done.returncode == 1
    assert re.search(r"^failed +5\n  ValueError +5$", done.stderr, re.MULTILINE)
    assert lines_of(folder / "b")[1]["error"] == "1 is odd"


@pytest.mark.parametrize(
    ("options", "code", "verdict"),
    [
        (["--fail-if", "failed>50%"], 0, "ok by --fail-if: 5 of 10 items failed (ValueError 5)"),
        (["--fail-if", "p95>1h", "--fail-if", "failed>=5"], 1, "failed: failed>=5 (5)"),
        (["--fail-if", "failed>50%", "--fail-fast"], 1, "failed: 1 of 2 items (ValueError 1); not complete"),
        (["--fail-if", "failed>5s"], 2, "write a number of items or a share, like failed>10 or failed>1%"),
    ],
)
def test_conditions_decide_the_exit_code_of_a_complete_run(
    folder: Path, flowrt: Flowrt, options: list[str], code: int, verdict: str
) -> None:
    write_items(folder, range(10))
    done = flowrt("run", "nodes:odd_fails", "in.jsonl", "-o", "out", "--max-concurrency", "1", *options)
    assert done.returncode == code
    assert verdict in re.sub(r"\s+", " ", done.stderr)


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv"])
def test_empty_input_gives_an_empty_output(folder: Path, flowrt: Flowrt, name: str) -> None:
    (folder / name).touch()
    assert flowrt("run", "nodes:echo", name, "-o", "out.jsonl").returncode == 0
    assert (folder / "out.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nodes:touch", "nosuch.jsonl", "-o", "out"], "'nosuch.jsonl' does not exist"),
        (["nodes:touch", ".", "-o", "out"], "is a folder"),
        (["nodes:touch", "in.txt", "-o", "out"], "--input-format"),
        (["nodes:touch", "in.jsonl", "-o", "in.jsonl"], "is the input itself"),
        (["nodes:touch", "in.jsonl", "-o", "link"], "is the input itself"),
        (["nodes:touch", "in.jsonl", "-o", "dangling"], "is a symlink"),
        (["nodes:touch", "in.jsonl", "-o", "old"], "--overwrite"),
        (["nodes:touch", "in.jsonl", "-o", "nosuch/out"], "does not exist"),
        (["nodes:touch", "in.jsonl", "-o", "/proc/out"], "cannot be written"),
        (["os:system", "in.jsonl", "-o", "out"], "Python itself"),
        (["nosuch:node", "in.jsonl", "-o", "out"], "no module 'nosuch'"),
        (["nodes:nosuch", "in.jsonl", "-o", "out"], "no attribute 'nosuch'"),
    ],
)
def test_bad_usage_is_one_line_and_exits_2_before_the_first_item(
    folder: Path, flowrt: Flowrt, arguments: list[str], expected: str
) -> None:
    write_items(folder, [1])
    write_items(folder, [1], "in.txt")
    (folder / "link").symlink_to("in.jsonl")
    (folder / "dangling").symlink_to("nothing")
    (folder / "old").write_text("old")
    before = {path.name: path.lstat().st_size for path in folder.iterdir() if path.name != "__pycache__"}
    done = flowrt("run", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert {path.name: path.lstat().st_size for path in folder.iterdir() if path.name != "__pycache__"} == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-concurrency", "0"),
        ("--max-concurrency", "-1"),
        ("--max-concurrency", "abc"),
        ("--max-concurrency", "nan"),
        ("--max-concurrency", "1.5"),
        ("--max-concurrency", "9:3"),
        ("--retries", "-1"),
        ("--rate", "100"),
        ("--hedge", "p100"),
        ("--item-timeout", "0"),
        ("--item-timeout", "nan"),
        ("--batch-timeout", "inf"),
        ("--batch-timeout", "-1"),
        ("--executor", "rockets"),
        ("--input-format", "xml"),
        ("--metrics-port", "70000"),
        ("--log-format", "xml"),
        ("--otlp-endpoint", "nonsense"),
    ],
)
def test_option_out_of_range_is_named_and_exits_2(folder: Path, flowrt: Flowrt, option: str, value: str) -> None:
    write_items(folder, [1])
    done = flowrt("run", "nodes:touch", "in.jsonl", "-o", "out", option, value)
    assert done.returncode == 2
    assert value in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "touched").exists()
    assert not (folder / "out.partial").exists()


def test_port_in_use_is_bad_usage(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, [1])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = flowrt("run", "nodes:touch", "in.jsonl", "-o", "out", "--metrics-port", taken.getsockname()[1])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (folder / "touched").exists()
    assert not (folder / "out.partial").exists()


def test_run_that_does_not_start_keeps_an_earlier_partial_output(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, [1])
    (folder / "bad.jsonl").write_bytes(b"PAR1 nothing")
    (folder / "out.partial").write_text("ten hours of work\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for code, *words in ((2, "in.jsonl", "--metrics-port", port), (65, "bad.jsonl")):
            done = flowrt("run", "nodes:touch", *words, "-o", "out")
            assert done.returncode == code
            assert "replacing" not in done.stderr
            assert (folder / "out.partial").read_text() == "ten hours of work\n"
    done = flowrt("run", "nodes:touch", "in.jsonl", "-o", "out")
    assert done.returncode == 0
    assert "replacing out.partial" in done.stderr
    assert not (folder / "out.partial").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [("in.parquet", b"PAR1 nothing"), ("in.csv", b",,\n1\n"), ("in.jsonl", b"PAR1 nothing")],
)
def test_unreadable_input_exits_65_and_leaves_no_output(folder: Path, flowrt: Flowrt, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    done = flowrt("run", "nodes:touch", name, "-o", "out")
    assert done.returncode == 65
    assert name in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("out*"))


def test_full_disk_exits_5(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(5))
    done = flowrt("run", "nodes:echo", "in.jsonl", "-o", "/dev/full")
    assert done.returncode == 5
    assert done.stderr == "flowrt: writing /dev/full failed: No space left on device\n"


def test_disk_that_fills_up_exits_5_and_names_the_partial_file(folder: Path, command: Any) -> None:
    words, environment = command
    write_items(folder, range(100))
    done = subprocess.run(
        [*words, "run", "nodes:big", "in.jsonl", "-o", "out", "--quiet"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "writing out failed: File too large" in done.stderr
    assert "out.partial" in done.stderr
    assert not (folder / "out").exists()


def test_closed_output_pipe_exits_1_silently(folder: Path, command: Any) -> None:
    words, environment = command
    write_items(folder, range(10_000))
    process = subprocess.Popen(
        [*words, "run", "nodes:big", "in.jsonl", "-o", "-"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_overwrite_replaces_the_output(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, [1])
    (folder / "out").write_text("old")
    assert flowrt("run", "nodes:echo", "in.jsonl", "-o", "out", "--overwrite").returncode == 0
    assert lines_of(folder / "out")[0]["output"] == 1


def test_fail_fast_stops_at_the_first_failure(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(1000))
    done = flowrt("run", "nodes:odd_fails", "in.jsonl", "-o", "out", "--fail-fast", "--max-concurrency", 1)
    assert done.returncode == 1
    assert "stopped at the first failure" in done.stderr
    assert "item 1: 1 is odd" in done.stderr
    assert not (folder / "out").exists()
    assert len((folder / "out.partial").read_text().splitlines()) == 2


# -- time ----------------------------------------------------------------------------------------------------------


def test_item_over_its_timeout_is_timed_out(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, [1])
    done = flowrt("run", "nodes:slow", "in.jsonl", "-o", "-", "--item-timeout", "0.01")
    assert done.returncode == 1
    assert lines_of(done.stdout)[0]["status"] == "timed_out"


def test_batch_timeout_writes_a_line_for_every_item(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, range(500))
    done = flowrt("run", "nodes:slow", "in.jsonl", "-o", "out", "--batch-timeout", "2", "--max-concurrency", 2)
    assert done.returncode == 1, done.stderr
    lines = lines_of(folder / "out")
    assert [line["index"] for line in lines] == list(range(500))
    assert {line["status"] for line in lines} == {"ok", "cancelled"}
    assert "batch_timeout=2 s" in lines[-1]["error"]


def test_batch_timeout_leaves_the_rest_of_a_pipe_and_fails(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    numbers = "".join(f"{number}\n" for number in range(500))
    options = ("--batch-timeout", "2", "--max-concurrency", 2)
    done = flowrt("run", "nodes:slow", "-", "-o", "out", *options, stdin=numbers)
    assert done.returncode == 1, done.stderr
    assert "batch_timeout=2 s was over: the rest of the input is not in the output" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "out").exists()
    assert 0 < len(lines_of(folder / "out.partial")) < 500


DECORATED = """
import asyncio
import flowrt

@flowrt.node(max_concurrency=2, item_timeout=0.5, retry=2)
async def wait(item):
    await asyncio.sleep(item)
    return item
"""


def test_node_keeps_the_settings_that_no_option_overrides(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    (folder / "decorated.py").write_text(DECORATED)
    write_items(folder, [0, 1.5])
    done = flowrt("run", "decorated:wait", "in.jsonl", "-o", "-", "--quiet")
    assert {line["index"]: (line["status"], line["attempts"]) for line in lines_of(done.stdout)} == {
        0: ("ok", 1),
        1: ("timed_out", 2),
    }
    done = flowrt("run", "decorated:wait", "in.jsonl", "-o", "-", "--quiet", "--item-timeout", "60", "--retries", "0")
    assert [line["status"] for line in lines_of(done.stdout)] == ["ok", "ok"]


def test_cache_answers_a_later_run(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, [1, 2, 1])
    options = ("run", "nodes:echo", "in.jsonl", "-o", "-", "--cache", "outputs.db")
    assert "cached" in flowrt(*options).stderr
    done = flowrt(*options)
    assert sorted((line["output"], line["attempts"]) for line in lines_of(done.stdout)) == [(1, 0), (1, 0), (2, 0)]
    (cached,) = [line for line in done.stderr.splitlines() if "cached" in line]
    assert cached.split()[-1] == "3"


def test_executor_threads_runs_the_items(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, range(5))
    done = flowrt("run", "nodes:slow", "in.jsonl", "-o", "-", "--executor", "threads")
    assert (done.returncode, len(lines_of(done.stdout))) == (0, 5)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["in.jsonl", "-"])
def test_interrupt_drains_and_names_the_partial_output(
    folder: Path, command: Any, lines_of: LinesOf, signum: int, code: int, name: str
) -> None:
    words, environment = command
    path = write_items(folder, range(10_000))
    with path.open("rb") as stdin:
        process = subprocess.Popen(
            [*words, "run", "nodes:slow", name, "-o", "out"],
            cwd=folder, env=environment, stdin=stdin, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    partial = folder / "out.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signum)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == code, stderr
    assert "out.partial" in stderr
    assert "Traceback" not in stderr
    assert not (folder / "out").exists()
    lines = lines_of(partial)
    assert {line["status"] for line in lines} == {"ok"}
    assert [line["index"] for line in lines] == list(range(len(lines)))


def test_interrupt_while_the_input_pipe_is_silent_ends_the_run(folder: Path, command: Any) -> None:
    words, environment = command
    process = subprocess.Popen(
        [*words, "run", "nodes:echo", "-", "-o", "out"],
        cwd=folder, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    with process:
        process.stdin.write("1\n")
        process.stdin.flush()
        partial = folder / "out.partial"
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


# -- what it says --------------------------------------------------------------------------------------------------


def test_run_without_a_terminal_prints_failures_and_the_summary(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(5))
    text = flowrt("run", "nodes:odd_fails", "in.jsonl", "-o", "out").stderr
    first, more, *rows = text.splitlines()
    assert first in {"flowrt: item 1: ValueError: 1 is odd", "flowrt: item 3: ValueError: 3 is odd"}
    assert more == "flowrt: ValueError: + 1 more like it"
    labels = [line.split("  ")[0].strip() for line in rows if not line.startswith(" ")]
    account = ["speedup, measured", "speedup, claimed", "bound by"]
    assert labels == ["result", "items", "ok", "failed", "p50", "p95", "p99", "wall time", "throughput", *account]
    assert "claimed" in text


def test_quiet_prints_nothing(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(5))
    done = flowrt("run", "nodes:odd_fails", "in.jsonl", "-o", "out", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metrics-host", "192.0.2.1"], "binding '192.0.2.1' lets others read the telemetry: give a token"),
        (["--metrics-key", "in.jsonl"], "a TLS key needs its certificate"),
        (["--metrics-cert", "in.jsonl"], "the TLS certificate 'in.jsonl' cannot be used"),
    ],
)
def test_unsafe_server_exits_2_before_the_first_item(
    folder: Path, flowrt: Flowrt, options: list[str], said: str
) -> None:
    write_items(folder, range(5))
    done = flowrt("run", "nodes:echo", "in.jsonl", "-o", "out", "--metrics-port", 0, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (folder / "out").exists()
    assert not (folder / "out.partial").exists()


def test_free_port_chosen_by_the_system_is_printed(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(5))
    done = flowrt("run", "nodes:echo", "in.jsonl", "-o", "out", "--metrics-port", 0)
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert first.startswith("flowrt: metrics: http://127.0.0.1:")
    assert first.endswith("/metrics")
    assert not first.endswith(":0/metrics")
    assert done.stderr.splitlines()[1] == first.replace("metrics: ", "live page: ").removesuffix("metrics")


def test_json_log_format_leaves_only_json_on_stderr(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(5))
    done = flowrt("run", "nodes:odd_fails", "in.jsonl", "-o", "out", "--log-format", "json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events if event["event"].startswith("batch.")] == [
        "batch.started", "batch.completed",
    ]  # fmt: skip
    assert sum(event["event"] == "item.failed" for event in events) == 2


def _on_a_terminal(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run with a terminal as stderr and return what was drawn on it; `nodes:waits` goes on once it shows ten items."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, 0x5414, b"\x28\x00\x78\x00\x00\x00\x00\x00")  # TIOCSWINSZ: 40 rows, 120 columns
    process = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        drawn += data
        if "10 in flight" in _plain(drawn):
            (folder / "go").touch()
    os.close(ours)
    process.communicate(timeout=60)
    return process.returncode, _plain(drawn)


def _plain(drawn: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.decode(errors="ignore"))


def test_run_on_a_terminal_shows_progress_and_a_table(folder: Path, command: Any) -> None:
    words, environment = command
    write_items(folder, range(60))
    environment = {**environment, "COLUMNS": "120"}
    arguments = [*words, "run", "nodes:waits", "in.jsonl", "-o", "out"]
    code, plain = _on_a_terminal(arguments, folder, environment)
    assert code == 0, plain
    assert re.search(r"\d+/60", plain), plain
    assert "10 in flight" in plain
    assert "0 failed" in plain
    assert "eta" in plain
    assert re.search(r"\d/s", plain)
    assert "│" in plain
    assert "speedup" in plain
    code, drawn = _on_a_terminal([*arguments, "--overwrite", "--quiet"], folder, environment)
    assert (code, drawn) == (0, "")


def test_metrics_are_served_during_the_run(folder: Path, command: Any) -> None:
    words, environment = command
    port = free_port()
    write_items(folder, range(10_000))
    process = subprocess.Popen(
        [*words, "run", "nodes:slow", "in.jsonl", "-o", "out", "--quiet", "--metrics-port", str(port)],
        cwd=folder, env=environment,
    )  # fmt: skip
    try:
        page = ""
        while process.poll() is None and "flowrt_items_total" not in page:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    page = answer.read().decode()
            except OSError:
                time.sleep(0.02)
        assert 'flowrt_items_total{batch="slow",node="slow",status="ok"}' in page
    finally:
        process.terminate()
        process.wait(60)


# -- memory --------------------------------------------------------------------------------------------------------


def _peak_rss_mb(words: list[str], folder: Path, environment: dict[str, str]) -> float:
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=False, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run(
        [words[0], "-c", code, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return int(done.stdout) / 1024


def test_memory_stays_bounded_for_a_sparse_line_of_200_mb(folder: Path, command: Any, lines_of: LinesOf) -> None:
    words, environment = command
    write_items(folder, [1], "small.jsonl")
    with (folder / "in.jsonl").open("wb") as file:
        file.write(b"1\n")
        file.seek(200_000_000)
        file.write(b"\n2\n")
    run = [*words, "run", "nodes:echo"]
    small = _peak_rss_mb([*run, "small.jsonl", "-o", "small.out", "--quiet"], folder, environment)
    peak = _peak_rss_mb([*run, "in.jsonl", "-o", "out", "--quiet"], folder, environment)
    assert peak - small < 60, (peak, small)  # the 16 MiB of the longest line, and its growth
    lines = lines_of(folder / "out")
    assert [line["output"] for line in lines] == [1, None, 2]
    assert lines[1]["error"].startswith("line 2: 199,999,998 bytes are more than")


def test_memory_does_not_grow_with_the_number_of_items(folder: Path, command: Any) -> None:
    words, environment = command
    peaks = []
    for count in (1000, 30_000):
        (folder / "in.jsonl").write_text(("[" + "1," * 250 + "1]\n") * count)
        run = [*words, "run", "nodes:echo", "in.jsonl", "-o", "/dev/null", "--quiet", "--max-concurrency", "50"]
        peaks.append(_peak_rss_mb(run, folder, environment))
    assert peaks[1] - peaks[0] < 20, peaks


# -- what a working directory may hold ------------------------------------------------------------------------------


def test_json_py_in_the_working_directory_does_not_shadow_json(folder: Path, command: Any) -> None:
    _, environment = command
    for name in ("json", "csv", "rich", "click"):
        (folder / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    write_items(folder, [1])
    script = (
        folder / "bin" / "flowrt"
    )  # like the installed script: its own folder is first on the path, not the working directory
    script.parent.mkdir()
    script.write_text("from flowrt.cli.main import main\nmain(prog_name='flowrt')\n")
    done = subprocess.run(
        [command[0][0], script, "run", "nodes:echo", "in.jsonl", "-o", "-"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "shadowed" not in done.stderr


# -- policies ------------------------------------------------------------------------------------------------------


def test_retries_option_retries_failed_items(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    (folder / "nodes.py").write_text(
        "tries = {}\n"
        "async def third_time(item):\n"
        "    tries[item] = tries.get(item, 0) + 1\n"
        "    if tries[item] < 3:\n"
        "        raise ConnectionError('not yet')\n"
        "    return item\n"
    )
    write_items(folder, range(5))
    run = ["run", "nodes:third_time", "in.jsonl", "--max-concurrency", "1:4", "-o"]
    assert flowrt(*run, "none", "--retries", 0).returncode == 1
    assert flowrt(*run, "one", "--retries", 1).returncode == 1
    assert flowrt(*run, "two", "--retries", 2).returncode == 0
    assert {line["attempts"] for line in lines_of(folder / "none")} == {1}
    assert {line["attempts"] for line in lines_of(folder / "two")} == {3}


def test_tightest_of_several_rates_limits_the_run(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(16))
    began = time.monotonic()
    done = flowrt("run", "nodes:echo", "in.jsonl", "-o", "out", "--rate", "1000/s", "--rate", "5/1s")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began >= 3, "16 items at 5 a second"


def test_straggler_is_hedged(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    (folder / "nodes.py").write_text(
        "import asyncio\n"
        "tries = {}\n"
        "async def first_is_slow(item):\n"
        "    tries[item] = tries.get(item, 0) + 1\n"
        "    await asyncio.sleep(60 if item == 3 and tries[item] == 1 else 0)\n"
        "    return item\n"
        "def blocking(item):\n"
        "    return item\n"
    )
    write_items(folder, range(5))
    done = flowrt("run", "nodes:first_is_slow", "in.jsonl", "-o", "out", "--hedge", "100ms")
    assert done.returncode == 0, done.stderr
    assert sorted(line["attempts"] for line in lines_of(folder / "out")) == [1, 1, 1, 1, 2]
    write_items(folder, range(5), "two.jsonl")
    done = flowrt("run", "nodes:blocking", "two.jsonl", "-o", "none", "--hedge", "p95")
    assert done.returncode == 2
    assert "make it an `async def`" in done.stderr


def test_blocking_node_that_never_returns_does_not_block_the_exit(folder: Path, command: Any) -> None:
    (folder / "nodes.py").write_text("import time\ndef hang(item):\n    time.sleep(3600)\n")
    write_items(folder, range(3))
    words, environment = command
    done = subprocess.run(
        [*words, "run", "nodes:hang", "in.jsonl", "-o", "out", "--max-concurrency", "3", "--item-timeout", "0.1"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"^timed_out? +3|TimeoutError +3$", done.stderr, re.MULTILINE), done.stderr
