"""Outputs of `flowrt run`: formats, fields, failed inputs, pipes and devices."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until

Flowrt = Callable[..., "subprocess.CompletedProcess[str]"]
LinesOf = Callable[[Any], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _inputs(folder: Path) -> None:
    (folder / "in.csv").write_text("id,city\n1,Oslo\n2,Bergen\n3,Bodø\n")
    (folder / "jobs.py").write_text(
        "async def nested(item):\n"
        "    if item['id'] == '2':\n"
        "        raise ValueError('no data')\n"
        "    return {'name': item['city'], 'tags': ['a', 'b']}\n"
    )


def run(flowrt: Flowrt, *words: object, code: int = 1, node: str = "jobs:nested") -> str:
    done = flowrt("run", node, "in.csv", "--quiet", *words)
    assert done.returncode == code, done.stderr
    return done.stderr


def test_csv_output_has_a_row_per_item_with_json_cells(folder: Path, flowrt: Flowrt) -> None:
    run(flowrt, "-o", "out.csv", "--max-concurrency", 1)
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert json.loads(rows[2]["output"]) == {"name": "Bodø", "tags": ["a", "b"]}
    assert (rows[1]["output"], rows[1]["error"], rows[1]["success"]) == ("", "no data", "false")
    assert not (folder / "out.csv.partial").exists()


def test_output_fields_select_nested_columns(folder: Path, flowrt: Flowrt) -> None:
    run(flowrt, "-o", "out.tsv", "--output-fields", "index,output.name,error", "--max-concurrency", 1)
    assert (folder / "out.tsv").read_text() == "index\toutput.name\terror\n0\tOslo\t\n1\t\tno data\n2\tBodø\t\n"


def test_parquet_output_is_typed_and_readable(folder: Path, flowrt: Flowrt) -> None:
    import pyarrow.parquet as pq

    run(flowrt, "-o", "out.parquet", "--keep-input", "--max-concurrency", 1)
    table = pq.read_table(folder / "out.parquet")
    assert table.column_names[:3] == ["id", "city", "index"]
    assert table["city"].to_pylist() == ["Oslo", "Bergen", "Bodø"]
    assert [str(table.schema.field(name).type) for name in ("index", "success", "execution_time", "output")] == [
        "int64", "bool", "double", "string",
    ]  # fmt: skip
    assert json.loads(table["output"][0].as_py()) == {"name": "Oslo", "tags": ["a", "b"]}


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.csv.gz", "out.jsonl.gz"])
def test_output_without_items_is_readable(folder: Path, flowrt: Flowrt, name: str) -> None:
    import pyarrow.parquet as pq

    (folder / "in.csv").write_text("id,city\n")
    run(flowrt, "-o", name, code=0)
    if name == "out.parquet":
        assert pq.read_table(folder / name).num_rows == 0
    else:
        data = (folder / name).read_bytes()
        text = gzip.decompress(data) if name.endswith(".gz") else data
        assert text.startswith(b"index,success,") or (name == "out.jsonl.gz" and text == b"")


def test_gzip_output_is_complete(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    run(flowrt, "-o", "out.jsonl.gz")
    lines = lines_of(gzip.decompress((folder / "out.jsonl.gz").read_bytes()).decode())
    assert [line["index"] for line in lines] == [0, 1, 2]


def test_large_parquet_output_has_several_row_groups(folder: Path, flowrt: Flowrt) -> None:
    import pyarrow.parquet as pq

    (folder / "in.csv").write_text("id\n" + "".join(f"{i}\n" for i in range(25_000)))
    run(flowrt, "-o", "out.parquet", node="nodes:echo", code=0)
    file = pq.ParquetFile(folder / "out.parquet")
    assert (file.metadata.num_rows, file.num_row_groups) == (25_000, 3)


def test_interrupted_table_is_readable_under_its_partial_name(folder: Path, flowrt: Flowrt) -> None:
    import pyarrow.parquet as pq

    run(flowrt, "-o", "out.parquet", "--fail-fast", "--max-concurrency", 1)
    assert not (folder / "out.parquet").exists()
    assert pq.read_table(folder / "out.parquet.partial")["status"].to_pylist() == ["ok", "failed"]


def test_keep_input_merges_the_fields_of_the_input(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    run(flowrt, "-o", "out.jsonl", "--keep-input")
    assert lines_of(folder / "out.jsonl")[1]["city"] == "Bergen"
    (folder / "in.jsonl").write_text('{"index": 7}\n5\n')
    flowrt("run", "nodes:echo", "in.jsonl", "-o", "kept.jsonl", "--keep-input")
    first, second = lines_of(folder / "kept.jsonl")
    assert (first["input_index"], first["index"], second["input"]) == (7, 0, 5)


def test_field_without_a_column_is_reported(folder: Path, flowrt: Flowrt) -> None:
    (folder / "in.jsonl").write_text('{"a": 1}\n{"a": 1, "b": 2}\n')
    done = flowrt("run", "nodes:echo", "in.jsonl", "-o", "out.csv", "--keep-input", "--max-concurrency", 1)
    assert "left out of the output: b, which the first line has not: name the columns with" in done.stderr


def test_errors_file_holds_failed_inputs_and_can_be_run_again(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    run(flowrt, "-o", "out.jsonl", "--errors", "errors.jsonl")
    assert (folder / "errors.jsonl").read_text() == '{"id": "2", "city": "Bergen"}\n'
    again = flowrt("run", "nodes:echo", "errors.jsonl", "-o", "-", "--quiet")
    assert lines_of(again.stdout)[0]["output"] == {"id": "2", "city": "Bergen"}


def test_unreadable_lines_are_not_in_the_errors_file(folder: Path, flowrt: Flowrt) -> None:
    (folder / "in.jsonl").write_text("1\n{\n3\n")
    done = flowrt("run", "nodes:odd_fails", "in.jsonl", "-o", "out.jsonl", "--errors", "errors.jsonl")
    assert (folder / "errors.jsonl").read_text() == "1\n3\n"
    assert "not in the errors file: 1 items of the input that could not be read" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-o", "out.xlsx"], ".xlsx is not written: name a .jsonl, .csv or .parquet file"),
        (["-o", "out.parquet.gz"], "leave out .gz"),
        (["-o", "out.jsonl.xz"], "only gzip is written: name it out.jsonl.gz"),
        (["-o", "out", "--errors", "in.csv"], "errors in.csv is the input itself"),
        (["-o", "out", "--errors", "out"], "errors out is the output itself"),
        (["-o", "out", "--errors", "old"], "--overwrite"),
        (["-o", "out", "--output-fields", "a,,b"], "is not a list of different names"),
        (["-o", "out", "--delimiter", ";;"], "is not one character"),
        (["-o", "out", "--encoding", "klingon"], "is not an encoding that Python knows"),
        (["-o", "out", "--fields", ","], "is not a list of names"),
    ],
)
def test_impossible_input_or_output_option_is_bad_usage(
    folder: Path, flowrt: Flowrt, words: list[str], expected: str
) -> None:
    (folder / "old").write_text("old")
    assert expected in run(flowrt, *words, code=2)
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize("output", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_dev_stdout_is_standard_output(flowrt: Flowrt, lines_of: LinesOf, output: str) -> None:
    done = flowrt("run", "nodes:chatty", "-", "-o", output, "--quiet", stdin="1\n2\n")
    assert done.returncode == 0, done.stderr
    assert [line["output"] for line in lines_of(done.stdout)] == [1, 2]


@pytest.mark.parametrize("source", ["/dev/stdin", "/dev/fd/0"])
def test_dev_stdin_is_standard_input(flowrt: Flowrt, lines_of: LinesOf, source: str) -> None:
    done = flowrt("run", "nodes:echo", source, "-o", "-", "--quiet", stdin="1\n2\n")
    assert [line["output"] for line in lines_of(done.stdout)] == [1, 2]


def test_fifos_are_read_and_written(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    os.mkfifo(folder / "in")
    os.mkfifo(folder / "out")
    received: list[str] = []
    threads = [
        threading.Thread(target=lambda: (folder / "in").write_text("1\n2\n")),
        threading.Thread(target=lambda: received.append((folder / "out").read_text())),
    ]
    for thread in threads:
        thread.start()
    done = flowrt("run", "nodes:echo", "in", "-o", "out", "--quiet")
    for thread in threads:
        thread.join(30)
    assert done.returncode == 0, done.stderr
    assert [line["output"] for line in lines_of(received[0])] == [1, 2]
    assert (folder / "out").is_fifo()


def test_process_substitution_is_read_and_written(folder: Path, command: Any) -> None:
    words, environment = command
    line = f"{' '.join(words)} run nodes:echo <(printf '1\\n2\\n') -o >(cat > copy; touch copied) --quiet"
    subprocess.run(["bash", "-c", line], cwd=folder, env=environment, check=True, timeout=60)
    wait_until((folder / "copied").exists, "bash has copied the output")
    assert (folder / "copy").read_text().count("\n") == 2


def test_several_inputs_and_a_folder_of_parquet_are_one_run(folder: Path, flowrt: Flowrt, lines_of: LinesOf) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_to_dataset(pa.table({"year": [2025, 2026], "n": [1, 2]}), folder / "table", partition_cols=["year"])
    (folder / "a.jsonl").write_text("1\n")
    done = flowrt("run", "nodes:echo", "a.jsonl", "in.csv", "table", "-o", "-", "--limit", 6, "--quiet")
    assert done.returncode == 0, done.stderr
    outputs = [line["output"] for line in lines_of(done.stdout)]
    assert outputs[0] == 1
    assert outputs[1] == {"id": "1", "city": "Oslo"}
    assert outputs[4:] == [{"n": 1, "year": 2025}, {"n": 2, "year": 2026}]


def test_journal_distinguishes_the_options_of_the_input(folder: Path, flowrt: Flowrt) -> None:
    words = ("-o", "out.jsonl", "--journal", "run.journal")
    run(flowrt, *words, "--limit", 1, node="nodes:echo", code=0)
    run(flowrt, *words, "--limit", 1, node="nodes:echo", code=0)
    assert "limit" in run(flowrt, *words, "--limit", 2, node="nodes:echo", code=3)


@pytest.mark.parametrize("option", ["--record", "--report"])
def test_unwritable_recording_or_report_exits_5_before_the_first_item(
    folder: Path, flowrt: Flowrt, option: str
) -> None:
    done = flowrt("run", "nodes:touch", "in.csv", "-o", "out", option, "/proc/run.parquet")
    assert done.returncode == 5, done.stderr
    assert f"{option} /proc/run.parquet cannot be written" in done.stderr
    assert not (folder / "touched").exists()


def test_disk_that_fills_up_under_the_recording_exits_5(folder: Path, command: Any) -> None:
    words, environment = command
    script = folder / "full.py"
    script.write_text(
        "import flowrt.recording.parquet as p\n"
        "def full(*_):\n    raise OSError(28, 'No space left on device')\n"
        "p.GroupWriter.write = p.GroupWriter.close = full\n"
        "from flowrt.cli.main import main\nmain(prog_name='flowrt')\n"
    )
    arguments = ["run", "nodes:echo", "in.csv", "-o", "out", "--record", "run.parquet"]
    done = subprocess.run(
        [words[0], str(script), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "was not recorded in run.parquet" in done.stderr
    assert "No space left on device" in done.stderr
    assert (folder / "out").exists()
