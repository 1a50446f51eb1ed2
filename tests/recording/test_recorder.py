"""Recorder: the file equals what happened, and a failure of the recorder leaves the batch alone."""

from __future__ import annotations

import asyncio
import logging
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flowrt import BatchProcessor, BatchResults, RateLimit, Rejected, RetryPolicy
from flowrt.policies import Hedge
from flowrt.recording import recorder, writer_thread
from flowrt.recording.columns import RowBuffer
from flowrt.recording.parquet import GroupWriter, read_recording
from tests.conftest import Run
from tests.threads import assert_no_thread_left


async def steady(x: int) -> int:
    await asyncio.sleep(0.1)
    return x


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_recording(path)[1].to_pylist()
    return sorted(rows, key=lambda row: (row["index"], row["attempt"]))


def test_recording_has_the_times_of_each_item(run_virtual: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    run_virtual(BatchProcessor(steady, 2, record=path).batch(range(4)))
    meta, _ = read_recording(path)
    rows = rows_of(path)
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert [round(row["arrival_ns"] / 1e8) for row in rows] == [0, 0, 1, 1]
    assert [round(row["service_ns"] / 1e8) for row in rows] == [1, 1, 1, 1]
    assert {(row["outcome"], row["attempt"], row["last"], row["cause"]) for row in rows} == {("ok", 1, True, -1)}
    assert round(meta["wall_ns"] / 1e8) == 2
    assert meta["counts"]["ok"] == 4
    assert meta["settings"]["max_concurrency"] == 2
    assert meta["limits"] == [[0, 2]]


def test_each_attempt_of_a_retried_item_has_a_row(run_virtual: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    tried: list[int] = []

    async def flaky(x: int) -> int:
        await asyncio.sleep(0.1)
        tried.append(x)
        if x == 1 and tried.count(1) < 3:
            raise ConnectionError("try again")
        return x

    policy = RetryPolicy(5, wait=lambda _: 0.5)
    run_virtual(BatchProcessor(flaky, 2, retry=policy, record=path).batch(range(2)))
    first, *again = rows_of(path)
    assert (first["index"], first["outcome"]) == (0, "ok")
    assert [(row["attempt"], row["outcome"], row["last"]) for row in again] == [
        (1, "failed", False),
        (2, "failed", False),
        (3, "ok", True),
    ]
    assert [round(row["arrival_ns"] / 1e8) for row in again] == [0, 6, 12]
    (cause,) = read_recording(path)[0]["causes"]
    assert (cause["type"], cause["count"]) == ("ConnectionError", 2)


def test_rate_limit_wait_is_separate_from_service_time(run_virtual: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    run_virtual(BatchProcessor(steady, 4, rate_limit=RateLimit(1, per=1.0), record=path).batch(range(3)))
    assert [round(row["limiter_wait_ns"] / 1e8) for row in rows_of(path)] == [0, 10, 20]
    assert [round(row["service_ns"] / 1e8) for row in rows_of(path)] == [1, 1, 1]


def test_item_that_never_ran_has_no_service_time(run_virtual: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    run_virtual(BatchProcessor(steady, 1, batch_timeout=0.15, record=path).batch(range(3)))
    rows = rows_of(path)
    assert [row["outcome"] for row in rows] == ["ok", "cancelled", "cancelled"]
    assert [row["service_ns"] is None for row in rows] == [False, False, True]
    assert [row["attempt"] for row in rows] == [1, 1, 0]


def test_rejected_input_has_no_attempt(run_virtual: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    run_virtual(BatchProcessor(steady, 1, record=path).batch([1, Rejected("no JSON")]))
    (_, row) = rows_of(path)
    assert (row["outcome"], row["attempt"], row["service_ns"]) == ("failed", 0, None)


def test_item_waiting_for_a_retry_at_the_end_is_recorded_as_cancelled(run_virtual: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"

    async def fails(x: int) -> int:
        raise ConnectionError("no")

    policy = RetryPolicy(2, wait=lambda _: 100.0)
    run_virtual(BatchProcessor(fails, 1, retry=policy, batch_timeout=1.0, record=path).batch([1]))
    assert [(row["attempt"], row["outcome"], row["last"]) for row in rows_of(path)] == [
        (1, "failed", False),
        (2, "cancelled", True),
    ]


def test_change_of_the_limit_is_recorded(run_virtual: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"

    async def node(x: int) -> int:
        await asyncio.sleep(0.1)
        if x == 3:
            processor.set_max_concurrency(5)
        return x

    processor = BatchProcessor(node, 2, record=path)
    run_virtual(processor.batch(range(20)))
    limits = read_recording(path)[0]["limits"]
    assert [limit for _, limit in limits] == [2, 5]
    assert 1 <= round(limits[1][0] / 1e8) <= 2


def test_several_row_groups_are_complete_and_compact(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_ROWS", 1000)
    path = tmp_path / "run.parquet"

    async def noop(x: int) -> int:
        if x % 10 == 0:
            raise ValueError(f"item {x} is bad")
        return x

    run(BatchProcessor(noop, 10, record=path).batch(range(10_500)))
    meta, table = read_recording(path)
    assert sorted(table["index"].to_pylist()) == list(range(10_500))
    assert meta["causes"][0]["count"] == 1050
    assert path.stat().st_size / 10_500 <= 24


def test_file_is_complete_and_thread_ended_when_the_batch_returns(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    before = set(threading.enumerate())
    run(BatchProcessor(steady, 2, record=path).batch(range(3)))

    async def main() -> None:
        async with BatchProcessor(steady, 2, record=path).batch_as_completed(range(2)) as results:
            async for _ in results:
                pass

    run(main())
    assert len(rows_of(path)) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert_no_thread_left(before)


def test_recording_of_an_abandoned_stream_has_the_finished_items(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"

    async def node(x: int) -> None:
        await asyncio.sleep(10 * x)

    async def main() -> None:
        async with BatchProcessor(node, 2, record=path).batch_as_completed(range(100)) as results:
            async for _ in results:
                break

    run(main())
    assert {row["outcome"] for row in rows_of(path)} == {"ok", "cancelled"}


def test_failing_disk_loses_only_the_recording(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write(self: GroupWriter, rows: RowBuffer) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GroupWriter, "write", write)
    with caplog.at_level(logging.WARNING):
        results: BatchResults = run(BatchProcessor(steady, 2, record=tmp_path / "run.parquet").batch(range(2)))
    assert [result.output for result in results] == [0, 1]
    assert list(tmp_path.iterdir()) == []
    assert "No space left on device" in caplog.text


def test_removed_folder_loses_only_the_recording(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    processor = BatchProcessor(steady, 2, record=folder / "run.parquet")
    folder.rmdir()
    with caplog.at_level(logging.WARNING):
        assert [result.output for result in run(processor.batch(range(2)))] == [0, 1]
    assert "was not recorded" in caplog.text


def test_hanging_disk_does_not_block_the_batch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    def hang(*_: Any) -> None:
        monkeypatch.setattr(recorder, "_SAVE_S", 0.1)  # not before: a busy machine may delay the earlier steps
        go_on.wait(60)

    monkeypatch.setattr(GroupWriter, "close", hang)
    try:
        with caplog.at_level(logging.WARNING):
            assert run(BatchProcessor(steady, 2, record=tmp_path / "run.parquet").batch(range(2))).success_rate == 1
    finally:
        go_on.set()
    assert "the disk did not complete the file within 0.1 s" in caplog.text


def test_deadline_counts_from_when_the_thread_has_imported_pyarrow(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_SAVE_S", 1.0)
    monkeypatch.setattr(writer_thread, "import_pyarrow", lambda: time.sleep(2.0))
    path = tmp_path / "run.parquet"
    assert run(BatchProcessor(steady, 2, record=path).batch(range(2))).success_rate == 1
    assert len(rows_of(path)) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_deadline_counts_for_each_row_group(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = GroupWriter.write

    def slowly(self: GroupWriter, rows: RowBuffer) -> None:
        time.sleep(0.4)
        write(self, rows)

    monkeypatch.setattr(recorder, "_SAVE_S", 1.5)
    monkeypatch.setattr(recorder, "_ROWS", 10)
    monkeypatch.setattr(GroupWriter, "write", slowly)
    path = tmp_path / "run.parquet"
    run(BatchProcessor(steady, 2, record=path).batch(range(50)))
    assert len(rows_of(path)) == 50


class StarvedWriter:
    """A writer whose thread uses CPU time at each of many looks, and then no more."""

    step = (0.0, "late after {:g} s")

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def cpu_ns(self) -> int:
        self.looks = max(0, self.looks - 1)
        return self.looks


def test_deadline_counts_anew_while_the_thread_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_SAVE_S", 0.05)
    writer, late = StarvedWriter(20), threading.Event()
    deadline = recorder._Deadline(writer, lambda error: late.set())  # type: ignore[arg-type]
    deadline.start()
    assert late.wait(30)
    assert writer.looks == 0


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("import", "the recorder's thread did not import pyarrow within 0.1 s"),
        ("open", "the disk did not create the file within 0.1 s"),
        ("write", "the recorder's thread did not encode and write its rows within 0.1 s"),
        ("close", "the disk did not complete the file within 0.1 s"),
    ],
)
def test_late_recording_names_the_step_and_leaves_no_file(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
    message: str,
) -> None:
    go_on = threading.Event()

    def hang(*_: Any) -> None:
        for name in ("_START_S", "_SAVE_S"):  # not before: a busy machine may delay the earlier steps
            monkeypatch.setattr(recorder, name, 0.1)
        go_on.wait(60)

    begin, before = GroupWriter.__init__, set(threading.enumerate())
    if step == "import":
        monkeypatch.setattr(writer_thread, "import_pyarrow", hang)
    elif step == "open":
        monkeypatch.setattr(GroupWriter, "__init__", lambda self, *args: (hang(), begin(self, *args))[1])
    else:
        monkeypatch.setattr(GroupWriter, step, hang)
    with caplog.at_level(logging.WARNING):
        assert run(BatchProcessor(steady, 2, record=tmp_path / "run.parquet").batch(range(2))).success_rate == 1
    assert message in caplog.text
    assert list(tmp_path.iterdir()) == [], "a process that ends now leaves nothing"
    (thread,) = [each for each in set(threading.enumerate()) - before if each.name == "flowrt-recorder"]
    go_on.set()
    thread.join(60)
    assert list(tmp_path.iterdir()) == [], "a writer that goes on leaves nothing either"


def test_process_that_ends_before_its_batch_leaves_no_file(tmp_path: Path) -> None:
    code = f"""
import asyncio, time
from pathlib import Path
from flowrt import BatchProcessor

async def node(x):
    await asyncio.sleep(60)

async def main():
    batch = asyncio.ensure_future(BatchProcessor(node, record={str(tmp_path / "run.parquet")!r}).batch([1]))
    while not list(Path({str(tmp_path)!r}).iterdir()):
        await asyncio.sleep(0.01)
    print("recording", flush=True)
    raise SystemExit(3)  # asyncio.run would cancel the batch and save the recording

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "recording\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_process_that_ends_waits_for_what_its_recorder_is_writing(tmp_path: Path) -> None:
    """A thread that Python ends inside of pyarrow aborts the process."""
    code = f"""
import asyncio, os, time
from flowrt import BatchProcessor
from flowrt.recording import writer_thread

class Slow(writer_thread.GroupWriter):
    def __init__(self, *args):
        super().__init__(*args)
        os.write(1, b"creating ")
        time.sleep(0.3)
        os.write(1, b"created")

writer_thread.GroupWriter = Slow

async def node(x):
    await asyncio.sleep(60)

async def main():
    batch = asyncio.ensure_future(BatchProcessor(node, record={str(tmp_path / "run.parquet")!r}).batch([1]))
    while not os.listdir({str(tmp_path)!r}):
        await asyncio.sleep(0.01)
    raise SystemExit(3)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "creating created"), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "what"), [("nowhere/run.parquet", "does not exist"), ("", "name a file, not the folder")]
)
def test_unwritable_path_is_rejected_before_any_work(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        BatchProcessor(steady, record=tmp_path / name)


def test_file_that_is_not_a_recording_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "precious.parquet"
    path.write_text("precious")
    with pytest.raises(ValueError, match="is not a recording"):
        BatchProcessor(steady, record=path)


def test_items_from_a_journal_are_recorded_as_resumed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    for inputs in ([1, 2], [1, 2]):
        run(BatchProcessor(steady, 2, journal=tmp_path / "journal", record=path).batch(inputs))
    assert [(row["outcome"], row["attempt"], row["service_ns"]) for row in rows_of(path)] == [("resumed", 0, None)] * 2


def test_hedge_has_a_row_of_its_own(run_virtual: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    calls: list[int] = []

    async def node(x: int) -> int:
        calls.append(x)
        await asyncio.sleep(10.0 if len(calls) == 1 else 0.1)
        return x

    run_virtual(BatchProcessor(node, 1, hedge=Hedge(1.0), record=path).batch([1]))
    own, hedge = rows_of(path)
    assert (own["attempt"], own["hedge"], own["last"], own["outcome"]) == (1, False, True, "ok")
    assert (hedge["attempt"], hedge["hedge"], hedge["last"], hedge["outcome"]) == (2, True, False, "ok")
    assert round(hedge["arrival_ns"] / 1e9) == 1
