"""`flowrt report`, and the page of `flowrt run --report`."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flowrt.cli.main import main

JOB = """
import asyncio

async def job(item):
    await asyncio.sleep(0.001)
    if item["i"] % 10 == 3:
        raise ValueError(f"no {item['i']}")
    return item["i"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("reportjob.py").write_text(JOB)
    Path("in.jsonl").write_text("".join(f'{{"i": {i}}}\n' for i in range(50)))
    return tmp_path


def flowrt(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


def run(*arguments: str) -> Any:
    return flowrt("run", "reportjob:job", "in.jsonl", "-o", "out.jsonl", "--overwrite", "--quiet", *arguments)


@pytest.fixture
def recorded(folder: Path) -> Path:
    assert run("--record", "run.parquet").exit_code == 1
    return folder / "run.parquet"


def test_report_of_a_recording_is_printed(recorded: Path) -> None:
    shown = flowrt("report", "run.parquet")
    assert shown.exit_code == 0
    assert "5 of 50 items (10 %): 5 failed." in shown.stdout
    assert "Over time" in shown.stdout
    assert "ValueError: no N (reportjob.py:7 in job)" in shown.stdout


def test_report_of_an_output_has_no_times_of_day(recorded: Path) -> None:
    shown = flowrt("report", "out.jsonl")
    assert shown.exit_code == 0
    assert "5 of 50 items (10 %): 5 failed." in shown.stdout
    assert "record it with --record FILE" in shown.stdout
    assert "Over time" not in shown.stdout
    assert flowrt("report", "out.jsonl", "-o", "out.html").exit_code == 0


def lines(*changes: dict[str, Any]) -> None:
    line = {"index": 0, "success": True, "status": "ok", "error": None, "error_type": None}
    line |= {"attempts": 1, "execution_time": 0.25}
    Path("out.jsonl").write_text("".join(json.dumps(line | change) + "\n" for change in changes))


def test_report_of_an_output_knows_only_the_last_attempts_time(
    folder: Path,
) -> None:
    lines({"index": 0, "attempts": 3, "execution_time": 1.5}, {"index": 1})
    slowest = json.loads(flowrt("report", "out.jsonl", "--json").stdout)["slowest"]
    assert [(s["attempts"], s["duration"], s["service"]) for s in slowest] == [(3, None, 1.5), (1, 0.25, 0.25)]
    shown = flowrt("report", "out.jsonl", "-o", "out.html")
    assert shown.exit_code == 0, shown.output
    rows = flowrt("report", "out.jsonl").stdout.partition("Slowest items")[2].splitlines()
    assert rows[2].split() == ["0", "-", "1.50", "s", "3", "ok"]


@pytest.mark.parametrize(
    "change",
    [
        {"success": False, "status": "skipped"},
        {"success": False, "status": ["failed"]},
        {"index": float("inf")},
        {"index": 10**30},
        {"attempts": float("inf")},
        {"attempts": 10**30},
        {"attempts": -1},
        {"execution_time": 1e300},
        {"execution_time": float("nan")},
        {"success": False, "status": "failed", "error": 7},
    ],
    ids=str,
)
def test_report_of_an_unknown_output_line_is_one_line(folder: Path, change: dict[str, Any]) -> None:
    lines({}, change)
    shown = flowrt("report", "out.jsonl")
    assert (shown.exit_code, shown.stdout) == (65, "")
    (line,) = shown.stderr.splitlines()
    assert "line 2 is not one of its results" in line


def test_output_of_an_empty_run_has_a_report(folder: Path) -> None:
    Path("in.jsonl").write_text("")
    assert run().exit_code == 0
    assert Path("out.jsonl").read_bytes() == b""
    shown = flowrt("report", "out.jsonl")
    assert shown.exit_code == 0, shown.output
    assert json.loads(flowrt("report", "out.jsonl", "--json").stdout)["total"] == 0
    assert flowrt("report", "out.jsonl", "-o", "out.html").exit_code == 0


def test_report_prints_json_on_request(recorded: Path) -> None:
    data = json.loads(flowrt("report", "run.parquet", "--json").stdout)
    assert (data["total"], data["failed"]) == (50, 5)
    assert data["causes"][0]["items"] == 5


def test_report_page_is_readable_by_its_owner_only(recorded: Path) -> None:
    shown = flowrt("report", "run.parquet", "-o", "page.html")
    assert shown.exit_code == 0
    assert shown.stdout == ""
    assert stat.S_IMODE(Path("page.html").stat().st_mode) == 0o600
    assert Path("page.html").read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in recorded.parent.iterdir() if "page" in p.name) == ["page.html"]


def test_unwritable_report_page_is_bad_usage(recorded: Path) -> None:
    shown = flowrt("report", "run.parquet", "-o", "nowhere/page.html")
    assert shown.exit_code == 2
    assert shown.stderr == "flowrt: report nowhere/page.html cannot be written: No such file or directory\n"


@pytest.mark.parametrize("command", ["report", "whatif"])
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("missing.parquet", 2, "there is no file"),
        (".", 2, "is not a file"),
        ("cut.parquet", 65, "cut short, or another kind of file"),
        ("flipped.parquet", 65, ""),
        ("foreign.parquet", 65, "a Parquet file, but not a recording"),
        ("other.parquet", 65, "format 99"),
        ("empty.parquet", 65, "cut short, or another kind of file"),
        ("reportjob.py", 65, "cut short, or another kind of file"),
        ("in.jsonl", 65, ""),
    ],
)
def test_file_that_is_not_a_recording_is_reported_in_one_line(
    recorded: Path, command: str, name: str, code: int, said: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = recorded.read_bytes()
    Path("cut.parquet").write_bytes(whole[: len(whole) // 2])
    Path("flipped.parquet").write_bytes(whole[:4] + bytes(len(whole) // 3) + whole[4 + len(whole) // 3 :])
    Path("empty.parquet").write_bytes(b"")
    pq.write_table(pa.table({"a": [1]}), "foreign.parquet")
    meta = {b"flowrt": json.dumps({"format": "flowrt.recording", "version": 99}).encode()}
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(meta), "other.parquet")
    shown = flowrt(command, name)
    assert shown.exit_code == code, shown.output
    assert shown.stdout == ""
    (line,) = shown.stderr.splitlines()
    assert line.startswith("flowrt: ")
    assert said in line


def test_run_report_deletes_its_temporary_recording(folder: Path) -> None:
    assert run("--report", "page.html").exit_code == 1
    assert "ValueError" in Path("page.html").read_text()
    assert run("--report", "page.html", "--record", "run.parquet").exit_code == 1, "an earlier page is replaced"
    assert sorted(p.name for p in folder.iterdir() if p.suffix in (".html", ".parquet", ".partial")) == [
        "page.html",
        "run.parquet",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--report", "in.jsonl"), "is not a report"),
        (("--report", "nowhere/page.html"), "does not exist"),
        (("--report", "."), "is a folder"),
        (("--record", "in.jsonl"), "is not a recording"),
        (("--record", "nowhere/run.parquet"), "does not exist"),
    ],
)
def test_unwritable_report_path_fails_before_the_first_item(
    folder: Path, arguments: tuple[str, str], said: str
) -> None:
    before = Path("in.jsonl").read_text()
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert Path("in.jsonl").read_text() == before
    assert not Path("out.jsonl").exists()


def test_trace_url_links_the_traces_of_the_page(recorded: Path) -> None:
    url = "https://jaeger.example.com/trace/{trace_id}"
    assert flowrt("report", "run.parquet", "-o", "linked.html", "--trace-url", url).exit_code == 0
    assert 'href="https://jaeger.example.com/trace/' in Path("linked.html").read_text()
    wrong = flowrt("report", "run.parquet", "-o", "wrong.html", "--trace-url", "jaeger")
    assert wrong.exit_code == 2
    assert "trace_url must be an http or https URL" in wrong.stderr
