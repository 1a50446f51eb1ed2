"""`flowrt run --journal` as a separate process: resuming, refusals, and early ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Flowrt = Callable[..., "subprocess.CompletedProcess[str]"]
LinesOf = Callable[[Any], list[dict[str, Any]]]
Command = tuple[list[str], dict[str, str]]

NODES = """
import asyncio, functools, os

def ran(item):
    with open("ran", "a") as file:
        file.write(f"{item}\\n")

async def note(item):
    ran(item)
    return {"v": item}

async def slow(item):
    ran(item)
    await asyncio.sleep(0.2)
    return {"v": item}

async def odd_fails(item):
    ran(item)
    if item % 2 and not os.path.exists("mended"):
        raise ValueError(f"{item} is odd")
    return {"v": item}

async def waits(item):
    ran(item)
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    return {"v": item}

async def big(item):
    ran(item)
    await asyncio.sleep(0.001)
    return "x" * 20_000

async def login(item):
    ran(0)
    return item["user"]

async def same(item):
    ran(0)
    return item

async def ask(item, model):
    ran(item)
    return [model, item]

def asks(model):
    async def node(item):
        return await ask(item, model)
    return node

by_x = functools.partial(ask, model="x")
by_y = functools.partial(ask, model="y")
closed_over_x = asks("x")
closed_over_y = asks("y")
"""

pytestmark = [pytest.mark.parts, pytest.mark.timeout(300)]  # up to six processes per test

RUN = ("in.jsonl", "-o", "out.jsonl", "--journal", "run.journal")


@pytest.fixture(autouse=True)
def _nodes(folder: Path) -> None:
    (folder / "jobs.py").write_text(NODES)


def write_items(folder: Path, items: Any) -> None:
    (folder / "in.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def ran(folder: Path) -> list[int]:
    path = folder / "ran"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"__pycache__", "jobs.py", "nodes.py", "in.jsonl", "ran"}


def start(command: Command, folder: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command and wait until its node has run once."""
    process = subprocess.Popen(
        [*command[0], "run", *words], cwd=folder, env=command[1], stderr=subprocess.PIPE, text=True, **options
    )
    while not (folder / "ran").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return process


def test_same_command_resumes_a_killed_run(folder: Path, command: Command, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, range(60))
    process = start(command, folder, "jobs:slow", *RUN)
    while len(ran(folder)) < 30:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert files(folder) <= {"run.journal", "out.jsonl.partial"}
    done = flowrt("run", "jobs:slow", *RUN)
    assert done.returncode == 0, done.stderr
    assert "resuming from run.journal: " in done.stderr
    assert "resumed" in done.stderr.split("resuming from")[1]  # in the summary
    assert files(folder) == {"run.journal", "out.jsonl"}
    lines = lines_of(folder / "out.jsonl")
    assert [(line["index"], line["output"], line["status"]) for line in lines] == [
        (x, {"v": x}, "ok") for x in range(60)
    ]
    assert 60 <= len(ran(folder)) <= 60 + 10
    for name in files(folder):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_same_command_after_the_end_runs_no_item(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(20))
    assert flowrt("run", "jobs:odd_fails", *RUN).returncode == 1
    first = sorted((folder / "out.jsonl").read_bytes().splitlines())
    again = flowrt("run", "jobs:odd_fails", *RUN, "--quiet")
    assert (again.returncode, again.stderr) == (1, "")
    assert sorted((folder / "out.jsonl").read_bytes().splitlines()) == first
    assert len(ran(folder)) == 20


def test_journal_does_not_permit_replacing_a_foreign_output(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(3))
    assert flowrt("run", "jobs:note", *RUN).returncode == 0
    (folder / "out.jsonl").write_text('{"index": 0, "success": true}\nmine\n')
    done = flowrt("run", "jobs:note", *RUN)
    assert done.returncode == 2
    assert "output out.jsonl exists: pass --overwrite" in done.stderr
    assert "mine" in (folder / "out.jsonl").read_text()


def test_own_output_is_recognized_after_all_items_reran(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, [1, 3, 5])
    assert flowrt("run", "jobs:odd_fails", *RUN).returncode == 1
    (folder / "mended").touch()
    # as if the run was killed before it renamed its output: the journal now has other lines
    again = ("in.jsonl", "-o", "killed.jsonl", "--journal", "run.journal", "--retry-failed")
    assert flowrt("run", "jobs:odd_fails", *again).returncode == 0
    done = flowrt("run", "jobs:odd_fails", *RUN, "--retry-failed")
    assert done.returncode == 0, done.stderr
    assert [line["output"] for line in lines_of(folder / "out.jsonl")] == [{"v": x} for x in (1, 3, 5)]
    assert len(ran(folder)) == 6
    (folder / "out.jsonl").write_text('{"index": 0}\n')
    assert flowrt("run", "jobs:odd_fails", *RUN, "--retry-failed").returncode == 2


def test_retry_failed_reruns_failed_items(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, range(10))
    assert flowrt("run", "jobs:odd_fails", *RUN).returncode == 1
    assert flowrt("run", "jobs:odd_fails", *RUN).returncode == 1
    assert len(ran(folder)) == 10
    (folder / "mended").touch()
    done = flowrt("run", "jobs:odd_fails", *RUN, "--retry-failed")
    assert done.returncode == 0, done.stderr
    assert sorted(ran(folder)[10:]) == [1, 3, 5, 7, 9]
    assert [line["output"] for line in lines_of(folder / "out.jsonl")] == [{"v": x} for x in range(10)]
    alone = flowrt("run", "jobs:odd_fails", "in.jsonl", "-o", "other.jsonl", "--retry-failed")
    assert alone.returncode == 2
    assert "pass --journal FILE" in alone.stderr


@pytest.mark.parametrize(
    ("change", "node", "more", "said"),
    [
        ("9\n1\n2\n", "jobs:note", (), "input was"),
        ("0\n1\n2\n3\n", "jobs:note", (), "input was"),
        ("0\n1\n2\n", "jobs:odd_fails", (), "code was"),
        ("0\n1\n2\n", "jobs:note", ("--input-format", "csv"), "input_format was"),
    ],
)
def test_journal_of_another_run_is_refused_and_nothing_is_touched(
    folder: Path, flowrt: Flowrt, change: str, node: str, more: tuple[str, ...], said: str
) -> None:
    write_items(folder, range(3))
    assert flowrt("run", "jobs:note", *RUN).returncode == 0
    (folder / "out.jsonl.partial").write_text("of another run\n")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    (folder / "in.jsonl").write_text(change)
    done = flowrt("run", node, *RUN, "--overwrite", *more)
    assert done.returncode == 3
    assert "belongs to another run" in done.stderr
    assert said in done.stderr
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before
    assert len(ran(folder)) == 3


@pytest.mark.parametrize(("node", "other"), [("by_x", "by_y"), ("closed_over_x", "closed_over_y")])
def test_journal_distinguishes_nodes_of_the_same_code_by_name(
    folder: Path, flowrt: Flowrt, node: str, other: str
) -> None:
    write_items(folder, range(3))
    assert flowrt("run", f"jobs:{node}", *RUN).returncode == 0
    done = flowrt("run", f"jobs:{other}", "in.jsonl", "-o", "other.jsonl", "--journal", "run.journal")
    assert done.returncode == 3
    assert f'target was "jobs:{node}" and is "jobs:{other}"' in done.stderr
    assert not (folder / "other.jsonl").exists()
    assert len(ran(folder)) == 3


def test_journal_distinguishes_partials_by_their_arguments(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(3))
    assert flowrt("run", "jobs:by_x", *RUN).returncode == 0
    (folder / "jobs.py").write_text(NODES.replace('(ask, model="x")', '(ask, model="another")'))
    done = flowrt("run", "jobs:by_x", *RUN)
    assert done.returncode == 3
    assert "arguments was" in done.stderr
    assert len(ran(folder)) == 3


def test_journal_accepts_changed_run_settings(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(6))
    assert flowrt("run", "jobs:note", *RUN).returncode == 0
    (folder / "in.jsonl").rename(folder / "moved.jsonl")
    words = ("moved.jsonl", "-o", "other.jsonl", "--journal", "run.journal", "--max-concurrency", "3", "--retries", "2")
    done = flowrt("run", "jobs:note", *words, "--item-timeout", "5")
    assert done.returncode == 0, done.stderr
    assert len(ran(folder)) == 6


def test_damaged_journal_exits_4_and_names_the_offset(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(50))
    assert flowrt("run", "jobs:note", *RUN, "--max-concurrency", "1").returncode == 0
    data = bytearray((folder / "run.journal").read_bytes())
    at = data.index(b'"output": {"v": 20}')
    begins = data.rindex(b"\n", 0, at) + 1
    data[at] ^= 1
    (folder / "run.journal").write_bytes(data)
    done = flowrt("run", "jobs:note", *RUN)
    assert done.returncode == 4
    assert f"is damaged at offset {begins} (" in done.stderr
    assert "flowrt journal salvage FILE NEW" in done.stderr
    assert len(ran(folder)) == 50
    saved = flowrt("journal", "salvage", "run.journal", "whole.journal")
    assert saved.returncode == 0
    assert "49 items saved in whole.journal" in saved.stderr
    again = flowrt("run", "jobs:note", "in.jsonl", "-o", "out.jsonl", "--journal", "whole.journal", "--overwrite")
    assert again.returncode == 0, again.stderr
    assert ran(folder)[50:] == [20]


def test_second_run_on_a_journal_exits_75(folder: Path, command: Command, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, range(60))
    process = start(command, folder, "jobs:waits", *RUN)
    second = flowrt("run", "jobs:waits", *RUN)
    (folder / "go").touch()
    assert second.returncode == 75
    assert "in use by another run" in second.stderr
    assert process.wait(60) == 0
    process.communicate()
    assert len(lines_of(folder / "out.jsonl")) == 60
    assert sorted(ran(folder)) == list(range(60))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_run_journals_items_in_flight(
    folder: Path, command: Command, flowrt: Flowrt, lines_of: LinesOf, signum: int, code: int
) -> None:
    write_items(folder, range(60))
    process = start(command, folder, "jobs:slow", *RUN, "--max-concurrency", "5")
    process.send_signal(signum)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert "run the same command again to resume: finished items are in run.journal" in said
    assert "Traceback" not in said
    assert not (folder / "out.jsonl").exists()
    before = len(ran(folder))
    assert before < 60
    done = flowrt("run", "jobs:slow", *RUN)
    assert done.returncode == 0, done.stderr
    assert sorted(ran(folder)) == list(range(60))  # none ran twice
    assert len(lines_of(folder / "out.jsonl")) == 60


def test_run_ended_by_a_closed_pipe_is_resumed(
    folder: Path, command: Command, flowrt: Flowrt, lines_of: LinesOf
) -> None:
    write_items(folder, range(200))
    words = ("jobs:big", "in.jsonl", "-o", "-", "--journal", "run.journal")
    process = start(command, folder, *words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1000)
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert "Traceback" not in said
    assert "finished items are in run.journal" in said
    done = flowrt("run", *words)
    assert done.returncode == 0, done.stderr
    assert [line["index"] for line in lines_of(done.stdout)] == list(range(200))
    assert 200 <= len(ran(folder)) <= 200 + 10


def test_run_ended_by_a_full_disk_exits_5_and_is_resumed(
    folder: Path, command: Command, flowrt: Flowrt, lines_of: LinesOf
) -> None:
    write_items(folder, range(300))
    most = 1_500_000  # file size limit in bytes: the journal reserves space before the first item
    process = start(
        command,
        folder,
        *("jobs:big", "in.jsonl", "-o", "/dev/null", "--journal", "run.journal"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 5, said
    assert "run.journal: writing it failed: File too large" in said
    assert "Traceback" not in said
    assert 10 < len(ran(folder)) < 300
    done = flowrt("run", "jobs:big", *RUN)
    assert done.returncode == 0, done.stderr
    assert len(lines_of(folder / "out.jsonl")) == 300
    assert len(ran(folder)) <= 300 + 10


def test_journal_on_a_full_disk_fails_before_the_first_item(folder: Path, command: Command) -> None:
    write_items(folder, range(3))
    most = 100_000
    done = subprocess.run(
        [*command[0], "run", "jobs:note", *RUN],
        cwd=folder,
        env=command[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),  # one thread
    )
    assert done.returncode == 5, done.stderr
    assert "journal run.journal: writing it failed" in done.stderr
    assert ran(folder) == []
    assert "out.jsonl" not in files(folder)


@pytest.mark.parametrize(
    ("journal", "output", "said"),
    [
        ("in.jsonl", "out.jsonl", "is the input itself"),
        ("./out.jsonl", "out.jsonl", "is the output itself"),
        ("out.jsonl.partial", "out.jsonl", "is the output itself"),
        ("no/run.journal", "out.jsonl", "its folder does not exist"),
        (".", "out.jsonl", "it is a folder"),
        ("", "out.jsonl", "needs the name of a file"),
    ],
)
def test_impossible_journal_path_is_bad_usage(
    folder: Path, flowrt: Flowrt, journal: str, output: str, said: str
) -> None:
    write_items(folder, range(3))
    done = flowrt("run", "jobs:note", "in.jsonl", "-o", output, "--journal", journal, "--overwrite")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert ran(folder) == []
    assert (folder / "in.jsonl").read_text() == "0\n1\n2\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "x", "--report", "x"), "report x is the output itself"),
        (("-o", "x", "--report", "x.partial"), "report x.partial is the output itself"),
        (("-o", "x", "--record", "./x"), "recording ./x is the output itself"),
        (("-o", "out", "--journal", "x", "--report", "x"), "report x is the journal itself"),
        (("-o", "out", "--journal", "x", "--record", "x"), "recording x is the journal itself"),
        (("-o", "out", "--record", "x", "--report", "x"), "report x is the recording itself"),
        (("-o", "out", "--record", "in.parquet"), "recording in.parquet is the input itself"),
    ],
)
def test_two_files_of_a_run_with_one_path_are_refused(
    folder: Path, flowrt: Flowrt, words: tuple[str, ...], said: str
) -> None:
    write_items(folder, range(3))
    assert flowrt("run", "jobs:note", "in.jsonl", "-o", "/dev/null", "--record", "in.parquet").returncode == 0
    before = (folder / "in.parquet").read_bytes()
    done = flowrt("run", "jobs:note", "in.parquet", *words)
    assert done.returncode == 2, done.stderr
    assert f"{said}: give it another name" in done.stderr
    assert files(folder) == {"in.parquet"}
    assert (folder / "in.parquet").read_bytes() == before
    assert len(ran(folder)) == 3


def test_file_that_is_not_a_journal_keeps_its_mode(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(3))
    script = folder / "run.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    done = flowrt("run", "jobs:note", "in.jsonl", "-o", "out.jsonl", "--journal", "run.sh")
    assert done.returncode == 4
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    assert script.read_text() == "#!/bin/sh\nexit 0\n"


def test_journal_compares_the_items_of_a_pipe_one_by_one(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    words = ("run", "jobs:note", "-", "-o", "-", "--journal", "run.journal", "--quiet")
    assert flowrt(*words, stdin="1\n2\n").returncode == 0
    longer = flowrt(*words, stdin="1\n2\n3\n")
    assert [line["output"]["v"] for line in lines_of(longer.stdout)] == [1, 2, 3]
    assert ran(folder) == [1, 2, 3]
    other = flowrt(*words, stdin="1\n5\n3\n")
    assert other.returncode == 3
    assert "item 1 had another input then" in other.stderr
    shorter = flowrt(*words, stdin="1\n")
    assert shorter.returncode == 3
    assert "holds item 2 and the input ends after 1" in shorter.stderr
    assert ran(folder) == [1, 2, 3]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_standard_input_starts_at_the_file_offset(folder: Path, command: Command, lines_of: LinesOf, form: str) -> None:
    (folder / "in").write_text("x\n0\n1\n2\n")

    def run(skipped: int) -> subprocess.CompletedProcess[str]:
        words = ("-", "-o", "out.jsonl", "--journal", "run.journal", "--input-format", form)
        with (folder / "in").open("rb", buffering=0) as stdin:
            stdin.seek(skipped)
            return subprocess.run(
                [*command[0], "run", "jobs:same", *words],
                cwd=folder,
                env=command[1],
                stdin=stdin,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

    expected: list[Any] = [0, 1, 2] if form == "jsonl" else [{"0": "1"}, {"0": "2"}]
    for _ in range(2):
        done = run(2)
        assert done.returncode == 0, done.stderr
        assert [line["output"] for line in lines_of(folder / "out.jsonl")] == expected
    assert len(ran(folder)) == len(expected)
    other = run(4)
    assert other.returncode == 3
    assert "input was" in other.stderr


def test_unreadable_line_fails_again_in_a_resumed_run(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    (folder / "in.jsonl").write_text("0\n{\n2\n")
    for _ in range(2):
        assert flowrt("run", "jobs:note", *RUN).returncode == 1
        assert [line["status"] for line in lines_of(folder / "out.jsonl")] == ["ok", "failed", "ok"]
    assert sorted(ran(folder)) == [0, 2]


def test_run_ended_by_batch_timeout_is_resumed(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    write_items(folder, range(100))
    first = flowrt("run", "jobs:slow", *RUN, "--batch-timeout", "1.2", "--max-concurrency", "2")
    assert first.returncode == 1, first.stderr
    lines = lines_of(folder / "out.jsonl")
    assert [line["index"] for line in lines] == list(range(100))
    assert {line["status"] for line in lines} == {"ok", "cancelled"}
    again = flowrt("run", "jobs:slow", *RUN, "--batch-timeout", "0.0001", "--max-concurrency", "2")
    assert again.returncode == 1, again.stderr
    ok = {line["index"] for line in lines if line["status"] == "ok"}
    assert ok <= {line["index"] for line in lines_of(folder / "out.jsonl") if line["status"] == "ok"}
    assert flowrt("run", "jobs:slow", *RUN, "--max-concurrency", "50").returncode == 0
    assert {line["status"] for line in lines_of(folder / "out.jsonl")} == {"ok"}


def test_fail_fast_is_not_reported_as_a_journal_failure(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, range(10))
    for words, count in (((), 2), ((), 2), (("--retry-failed",), 3)):
        done = flowrt("run", "jobs:odd_fails", *RUN, "--fail-fast", "--max-concurrency", "1", *words)
        assert done.returncode == 1
        assert "stopped at the first failure, as --fail-fast asks: item 1: 1 is odd" in done.stderr
        assert len(ran(folder)) == count


def test_journal_holds_no_input(folder: Path, flowrt: Flowrt) -> None:
    write_items(folder, [{"user": "ada", "password": "canary"}])
    assert flowrt("run", "jobs:login", *RUN).returncode == 0
    assert b"ada" in (folder / "run.journal").read_bytes()
    assert b"canary" not in (folder / "run.journal").read_bytes()


def test_unwritable_journal_fails_before_the_first_item(folder: Path, flowrt: Flowrt) -> None:
    if os.getuid() == 0:  # root may write to any regular file system
        place = "/proc/run.journal"
    else:
        (folder / "closed").mkdir(mode=0o500)
        place = "closed/run.journal"
    write_items(folder, range(3))
    done = flowrt("run", "jobs:note", "in.jsonl", "-o", "out.jsonl", "--journal", place)
    assert done.returncode in {2, 5}
    assert f"journal '{place}' cannot be opened" in done.stderr
    assert ran(folder) == []
