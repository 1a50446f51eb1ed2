"""`flowrt journal`: show, export and salvage."""

from __future__ import annotations

import errno
import json
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowrt.cli.main import main
from flowrt.errors import JournalDamagedError
from flowrt.journal import export
from tests.journal.harness import failure, item, write

Flowrt = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def path(folder: Path) -> Path:
    path = folder / "run.journal"
    write(path, [item(2), failure(1), item(0), item(1)])
    return path


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words, prog_name="flowrt")
    return int(ended.value.code or 0)


def test_show_prints_the_contents_of_a_journal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("journal", "show", str(path)) == 0
    shown = dict(line.strip().split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert shown["items"] == "3"
    assert (shown["ok"], shown["failed"], shown["timed_out"]) == ("3", "0", "0")
    assert shown["records"] == "4 in 2 groups"
    assert (shown["node"], shown["input"]) == ("enrich", "airports")


def test_show_prints_the_same_as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("journal", "show", "--json", str(path)) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["items"], data["records"], data["counts"]["ok"], data["damaged_at"]) == (3, 4, 3, None)


def test_show_prints_a_table_on_a_terminal(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert call("journal", "show", str(path)) == 0
    assert "┌─" in capsys.readouterr().out


def test_torn_tail_is_shown_and_is_not_damage(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(path, [item(7)], close=False)
    path.write_bytes(path.read_bytes()[:-5])
    assert call("journal", "show", str(path)) == 0
    assert "torn tail" in capsys.readouterr().out


def test_export_writes_the_last_record_of_each_index_in_order(path: Path, flowrt: Flowrt) -> None:
    done = flowrt("journal", "export", path.name)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["index"], line["status"]) for line in lines] == [(0, "ok"), (1, "ok"), (2, "ok")]
    output = path.with_name("export.jsonl")
    assert call("journal", "export", str(path), "-o", str(output)) == 0
    assert output.read_text() == done.stdout
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert call("journal", "export", str(path), "-o", str(output)) == 2  # it exists


def test_export_to_a_closed_pipe_is_silent(path: Path, command: tuple[list[str], dict[str, str]], folder: Path) -> None:
    write(path, [item(index, output="x" * 1000) for index in range(300)], group=100)
    words, environment = command
    process = subprocess.Popen(
        [*words, "journal", "export", path.name],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 1


@pytest.mark.parametrize(("file", "code"), [("nothing", 2), ("nodes.py", 4), ("run.journal", 4), ("odd.journal", 4)])
def test_failed_export_leaves_no_output(
    path: Path, file: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b'{"index": 2')] ^= 1
    path.write_bytes(data)
    if file == "odd.journal":  # damaged after its first line
        write(path.with_name(file), [item(0), item(1)])

        def exported(*words: Any, **settings: Any) -> Any:
            yield next(export(*words, **settings))
            raise JournalDamagedError("journal odd.journal changed", 0)

        monkeypatch.setattr("flowrt.cli.commands.journal.exported", exported)
    assert call("journal", "export", file, "-o", "out.jsonl") == code
    printed = capsys.readouterr().err
    assert file in printed
    assert "writing" not in printed
    assert not path.with_name("out.jsonl").exists()


def test_unwritable_export_is_reported(
    path: Path, command: tuple[list[str], dict[str, str]], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    words, environment = command
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*words, "journal", "export", path.name], env=environment, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.stderr == b"flowrt: writing standard output failed: No space left on device\n"
    assert done.returncode == 5

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", failing)
    assert call("journal", "export", path.name, "-o", "out.jsonl") == 5
    assert capsys.readouterr().err == "flowrt: writing out.jsonl failed: Input/output error\n"
    assert not path.with_name("out.jsonl").exists()
    assert call("journal", "export", path.name, "-o", "nowhere/out.jsonl") == 2
    assert "output nowhere/out.jsonl cannot be created" in capsys.readouterr().err


def test_unwritable_salvage_target_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("journal", "salvage", path.name, "nowhere/whole.journal") == 2
    assert "'nowhere/whole.journal' cannot be opened: its folder does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["show", "export"])
@pytest.mark.parametrize(
    ("file", "code", "said"),
    [("nothing", 2, "does not exist"), (".", 2, "is not a file"), ("nodes.py", 4, "is not a journal of flowrt")],
)
def test_file_that_is_not_a_journal_is_reported_in_one_line(
    folder: Path, name: str, file: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("journal", name, file) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_salvage_skips_damage_and_replaces_no_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b'{"index": 2')] ^= 1
    path.write_bytes(data)
    new = path.with_name("whole.journal")
    assert call("journal", "export", str(path)) == 4
    assert call("journal", "salvage", str(path), str(new)) == 0
    assert "2 items saved" in capsys.readouterr().err
    assert call("journal", "export", "--skip-damaged", str(path)) == 0
    assert [json.loads(line)["index"] for line in capsys.readouterr().out.splitlines()] == [0, 1]
    assert call("journal", "salvage", str(path), str(new)) == 2
    assert "exists" in capsys.readouterr().err
