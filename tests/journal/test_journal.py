"""Journal: append, durability reports, restore, refusals and closing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrt.errors import (
    FlowrtError,
    JournalDamagedError,
    JournalDiskError,
    JournalInUseError,
    JournalMismatchError,
)
from flowrt.journal import Journal, export
from flowrt.model import BatchResult
from flowrt.model.json_lines import encode_result
from tests.conftest import Run
from tests.examples import examples
from tests.journal.harness import BROKEN, FINGERPRINT, FakeLoop, FaultyDisk, failure, item, restored, write


def test_item_is_reported_durable_only_after_its_sync(path: Path) -> None:
    disk, loop = FaultyDisk(), FakeLoop()
    syncs_at_report: list[int] = []
    journal = Journal(path, FINGERPRINT, disk=disk)
    before = disk.calls.count("sync")
    journal.start(loop.call, lambda _: syncs_at_report.append(disk.calls.count("sync") - before), pytest.fail)
    for index in range(3):
        journal.append(item(index), index)
        loop.settle(journal)
    journal.close()
    assert syncs_at_report == [1, 2, 3]
    assert disk.calls[-8:] == ["write", "sync"] * 4  # three groups and the final marker


def test_items_queued_during_a_sync_form_one_group(path: Path) -> None:
    class Slow(FaultyDisk):
        def sync(self, fd: int) -> None:
            super().sync(fd)
            if self.calls.count("sync") == 3:  # of the first group
                in_sync.set()
                go_on.wait(60)

    in_sync, go_on, loop = threading.Event(), threading.Event(), FakeLoop()
    journal = loop.start(Journal(path, FINGERPRINT, disk=Slow()))
    journal.append(item(0), 0)
    assert in_sync.wait(60)
    for index in range(1, 100):
        journal.append(item(index), index)
    assert journal.pending == 100
    assert loop.durable == []
    go_on.set()
    loop.settle(journal)
    journal.close()
    assert loop.groups == [[0], list(range(1, 100))]


def test_loop_is_notified_once_per_group(run: Run, path: Path) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        reported: list[int] = []
        journal = Journal(path, FINGERPRINT)
        done = loop.create_future()

        def durable(tokens: list[int]) -> None:
            assert asyncio.get_running_loop() is loop
            reported.extend(tokens)
            if len(reported) == 1000:
                done.set_result(None)

        journal.start(loop.call_soon_threadsafe, durable, lambda error, _: done.set_exception(error))
        for index in range(1000):
            journal.append(item(index), index)
            if index % 50 == 0:
                await asyncio.sleep(0)
        await done
        await asyncio.to_thread(journal.close)
        return reported

    assert run(main()) == list(range(1000))


def test_unthreaded_writer_works_in_virtual_time(run_virtual: Run, path: Path) -> None:
    async def main() -> list[list[int]]:
        groups: list[list[int]] = []
        with Journal(path, FINGERPRINT) as journal:
            journal.start(asyncio.get_running_loop().call_soon, groups.append, pytest.fail, threaded=False)
            for tick in range(3):
                await asyncio.sleep(3600)
                journal.append(item(2 * tick), 2 * tick)
                journal.append(item(2 * tick + 1), 2 * tick + 1)
            await asyncio.sleep(1)
        return groups

    assert run_virtual(main()) == [[0, 1], [2, 3], [4, 5]]
    assert len(restored(path, range(7))) == 6


def test_later_run_restores_finished_items_and_runs_the_rest(path: Path) -> None:
    write(path, [item(0), failure(1, attempts=3), item(3), failure(4, status="timed_out", output={"partly": 1})])
    with Journal(path, FINGERPRINT) as journal:
        assert journal.resumed
        assert (journal.held, journal.last_index) == (4, 4)
        assert journal.counts() == {"ok": 2, "failed": 1, "timed_out": 1}
        data = {"x": 0}
        done = journal.restore(0, data)
        assert done == BatchResult(
            0, data, success=True, output={"v": 0}, status="resumed", attempts=1, execution_time=0.25
        )
        assert done.input_data is data
        assert journal.restore(1, {"x": 1}) == failure(1, attempts=3)
        assert journal.restore(2, {"x": 2}) is None
        assert journal.restore(4, {"x": 4}) == failure(4, status="timed_out", output={"partly": 1})
        assert journal.restore(5, {"x": 5}) is None


def test_retry_failed_runs_failed_items_again(path: Path) -> None:
    write(path, [item(0), failure(1), failure(2, status="timed_out")])
    assert restored(path, range(3), retry_failed=True) == {0: "resumed"}


def test_last_record_of_an_item_counts(path: Path) -> None:
    write(path, [failure(1), item(0)])
    write(path, [item(1), item(0, output="again")])
    with Journal(path, FINGERPRINT) as journal:
        assert journal.counts() == {"ok": 2, "failed": 0, "timed_out": 0}
        again = journal.restore(0, {"x": 0})
        assert again is not None
        assert again.output == "again"
    assert [json.loads(line)["output"] for line in export(path)] == ["again", {"v": 1}]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"node": "other", "input": "airports"}, 'node was "enrich" and is "other"'),
        ({"node": "enrich", "input": "airports", "format": "csv"}, 'format was null and is "csv"'),
        ({"node": "enrich"}, 'input was "airports" and is null'),
    ],
)
def test_journal_of_another_run_is_refused_with_the_differences(path: Path, other: dict[str, str], said: str) -> None:
    write(path, [item(0)])
    before = path.read_bytes()
    with pytest.raises(JournalMismatchError, match=said) as caught:
        Journal(path, other)
    assert caught.value.exit_code == 3
    assert path.read_bytes() == before
    assert restored(path, [0]) == {0: "resumed"}  # and the lock was released


@pytest.mark.parametrize("retry_failed", [False, True])
def test_item_with_another_input_is_refused_by_its_index(path: Path, retry_failed: bool) -> None:
    write(path, [item(0), failure(1)])
    with Journal(path, FINGERPRINT, retry_failed=retry_failed) as journal:
        for index in (0, 1):
            with pytest.raises(JournalMismatchError, match=f"item {index} had another input"):
                journal.restore(index, {"x": 7})


def test_inputs_are_not_compared_without_check_inputs(path: Path) -> None:
    write(path, [item(0)], check_inputs=False)
    with Journal(path, FINGERPRINT, check_inputs=False) as journal:
        assert journal.restore(0, {"x": 7}) is not None


def test_journal_of_a_later_format_is_refused(path: Path) -> None:
    from flowrt.journal.format import sealed

    path.write_bytes(b"flowrt-journal " + sealed(b"2 {}\n"))
    with pytest.raises(JournalMismatchError, match="has format 2 and this version of flowrt reads 1"):
        Journal(path, FINGERPRINT)


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b'{"index": 0}\n', b"some text", b"flowrt-journal", b"\n"])
def test_file_that_is_not_a_journal_is_not_changed(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    if content == b"flowrt-journal":  # like a journal whose first line was cut
        Journal(path, FINGERPRINT).close()
        return
    with pytest.raises(JournalDamagedError, match="is not a journal of flowrt") as caught:
        Journal(path, FINGERPRINT)
    assert caught.value.offset == 0
    assert path.read_bytes() == content


def test_journal_file_is_private_to_its_user(path: Path) -> None:
    write(path, [item(0)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    write(path, [item(1)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_second_user_of_the_file_is_refused_at_once(path: Path) -> None:
    with Journal(path, FINGERPRINT) as first:
        loop = FakeLoop()
        loop.start(first)
        with pytest.raises(JournalInUseError, match="in use by another run") as caught:
            Journal(path, FINGERPRINT)
        assert caught.value.exit_code == 75
        first.append(item(0), 0)
        loop.settle(first)
    assert restored(path, [0]) == {0: "resumed"}


def test_file_renamed_while_waiting_for_the_lock_is_reopened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, [item(0)])
    flock, moved = fcntl.flock, path.with_name("moved")

    def moved_meanwhile(fd: int, operation: int) -> None:
        flock(fd, operation)
        if not moved.exists():
            path.rename(moved)

    monkeypatch.setattr(fcntl, "flock", moved_meanwhile)
    with Journal(path, FINGERPRINT) as journal:
        assert not journal.resumed
    assert path.exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("missing/run.journal", "its folder does not exist"),
        ("", "it is a folder"),
        ("pipe", "is no regular file"),
        ("file/run.journal", "its folder is a file"),
        ("n" * 300, "its name is too long"),
    ],
)
def test_impossible_path_is_refused_with_the_fix(tmp_path: Path, place: str, said: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=said):
        Journal(tmp_path / place, FINGERPRINT)


@pytest.mark.parametrize("fingerprint", [{"a": object()}, {"a": float("nan")}, {"a": {1, 2}}])
def test_fingerprint_without_json_form_creates_no_file(path: Path, fingerprint: Any) -> None:
    with pytest.raises(ValueError, match="must be of JSON values"):
        Journal(path, fingerprint)
    assert not path.exists()


@pytest.mark.parametrize("status", ["cancelled", "resumed"])
def test_append_refuses_unfinished_items(path: Path, status: Any) -> None:
    with (
        FakeLoop().start(Journal(path, FINGERPRINT)) as journal,
        pytest.raises(ValueError, match=f"item 5 is {status}"),
    ):
        journal.append(item(5, success=status == "resumed", status=status), 5)


def test_append_is_refused_before_start_and_after_close(path: Path) -> None:
    journal = Journal(path, FINGERPRINT)
    with pytest.raises(RuntimeError, match="takes items after start"):
        journal.append(item(0), 0)
    FakeLoop().start(journal)
    with pytest.raises(RuntimeError, match="was started before"):
        FakeLoop().start(journal)
    journal.close()
    journal.close()
    with pytest.raises(JournalInUseError, match="was closed"):
        journal.append(item(0), 0)


def test_close_writes_queued_items_and_ends_the_thread(path: Path) -> None:
    loop, before = FakeLoop(), set(threading.enumerate())
    journal = loop.start(Journal(path, FINGERPRINT))
    for index in range(500):
        journal.append(item(index), index)
    journal.close()
    loop.settle(journal)
    assert loop.durable == list(range(500))
    assert not {thread.name for thread in set(threading.enumerate()) - before}, "close waits for it"
    assert len(restored(path, range(500))) == 500


def test_error_in_the_block_keeps_finished_items(path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), FakeLoop().start(Journal(path, FINGERPRINT)) as journal:
        journal.append(item(0), 0)
        raise KeyboardInterrupt
    assert restored(path, [0]) == {0: "resumed"}


def test_abort_does_not_write_queued_items(path: Path) -> None:
    loop = FakeLoop()
    journal = loop.start(Journal(path, FINGERPRINT), threaded=False)
    journal.append(item(0), 0)
    journal.abort()
    assert loop.durable == loop.lost == []
    assert restored(path, [0]) == {}


def test_abort_does_not_report_a_disk_that_fails_meanwhile(path: Path) -> None:
    class Failing(FaultyDisk):
        def sync(self, fd: int) -> None:
            super().sync(fd)
            if self.calls.count("sync") > 2:
                in_sync.set()
                while not aborting():
                    time.sleep(0.001)
                raise OSError(BROKEN, os.strerror(BROKEN))

    def aborting() -> bool:
        return journal._writer is not None and journal._writer._aborting

    in_sync = threading.Event()
    journal = FakeLoop().start(Journal(path, FINGERPRINT, disk=Failing()))
    journal.append(item(0), 0)
    assert in_sync.wait(60)
    journal.abort()
    assert journal.error is not None
    assert restored(path, [0]) == {}


def test_hanging_disk_does_not_block_close(path: Path) -> None:
    class Hung(FaultyDisk):
        def sync(self, fd: int) -> None:
            super().sync(fd)
            if self.calls.count("sync") > 2:
                release.wait(60)

    release = threading.Event()
    journal = FakeLoop().start(Journal(path, FINGERPRINT, disk=Hung()))
    journal.append(item(0), 0)
    with pytest.raises(JournalDiskError, match=r"did not answer within 0\.05 s"):
        journal.close(timeout_s=0.05)
    release.set()
    for thread in threading.enumerate():
        if thread.name == "flowrt-journal":
            thread.join(60)
    journal._file.close()


def test_closed_loop_is_not_notified(path: Path) -> None:
    loop = asyncio.new_event_loop()
    journal = Journal(path, FINGERPRINT)
    journal.start(loop.call_soon_threadsafe, pytest.fail, pytest.fail)
    loop.close()
    journal.append(item(0), 0)
    journal.close()
    assert restored(path, [0]) == {0: "resumed"}


def test_forked_child_writes_nothing_and_holds_no_lock(path: Path) -> None:
    loop = FakeLoop()
    journal = loop.start(Journal(path, FINGERPRINT))
    journal.append(item(0), 0)
    loop.settle(journal)
    size = path.stat().st_size
    read, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        said = "took it"
        try:
            try:
                journal.append(item(1), 1)
            except JournalInUseError as exc:
                said = str(exc)
            journal.close()
            os.write(write_end, said.encode())
        finally:
            os._exit(0)
    os.close(write_end)
    assert b"not by its child" in os.read(read, 1000)
    os.close(read)
    assert os.waitpid(child, 0)[1] == 0
    assert path.stat().st_size == size
    sleeper = os.fork()
    if sleeper == 0:
        threading.Event().wait(60)
        os._exit(0)
    try:
        with pytest.raises(JournalInUseError):
            Journal(path, FINGERPRINT)  # the forked child does not release its parent's lock
        journal.append(item(2), 2)
        loop.settle(journal)
        journal.close()
        assert restored(path, range(3)) == {0: "resumed", 2: "resumed"}  # though the child lives
    finally:
        os.kill(sleeper, 9)
        os.waitpid(sleeper, 0)


def test_child_of_a_killed_parent_holds_no_lock(path: Path) -> None:
    write(path, [item(0)])
    journal = Journal(path, FINGERPRINT)
    read, write_end = os.pipe()
    sleeper = os.fork()
    if sleeper == 0:
        os.write(write_end, b".")
        threading.Event().wait(60)
        os._exit(0)
    try:
        assert os.read(read, 1) == b"."
        os.close(journal._file._fd)  # like the end of a killed process
        assert restored(path, [0]) == {0: "resumed"}
    finally:
        journal._file._fd = -1
        journal.close()
        os.kill(sleeper, 9)
        os.waitpid(sleeper, 0)
        os.close(read)
        os.close(write_end)


def test_restored_output_is_the_json_form(path: Path) -> None:
    output = {"when": datetime(2024, 1, 2, tzinfo=UTC), "at": (1, 2), 3: {"a", "b"}, "nan": float("nan")}
    write(path, [item(0, output=output)])
    with Journal(path, FINGERPRINT) as journal:
        done = journal.restore(0, {"x": 0})
    assert done is not None
    assert done.output == {"when": "2024-01-02T00:00:00+00:00", "at": [1, 2], "3": ["a", "b"], "nan": None}


@pytest.mark.parametrize(
    "output",
    ["\ud800 lone", "line\nbreak\r\u2028\0", "é" * 3, "x" * 20_000_000, list(range(100_000)), "", None, 0, [], {}],
    ids=["surrogate", "breaks", "accents", "20 MB", "long", "empty", "none", "zero", "list", "dict"],
)
def test_any_output_is_restored(path: Path, output: Any) -> None:
    write(path, [item(0, output=output), item(1), failure(2, error="\udcff\n" * 3)])
    with Journal(path, FINGERPRINT) as journal:
        done, after, failed = (journal.restore(index, {"x": index}) for index in range(3))
    assert done is not None
    assert done.output == output
    assert after == item(1, status="resumed")
    assert failed == failure(2, error="\udcff\n" * 3)


def test_deep_nesting_that_was_written_can_be_read(path: Path) -> None:
    deep: Any = []
    for _ in range(sys.getrecursionlimit() - 150):
        deep = [deep]
    assert b'"[[[' not in encode_result(item(0, output=deep))
    write(path, [item(0, output=deep)])

    def restore(depth: int) -> Any:
        return restore(depth - 1) if depth else journal.restore(0, {"x": 0})

    with Journal(path, FINGERPRINT) as journal:
        done = restore(150)
    found = done.output
    while found:
        found, deep = found[0], deep[0]
    assert deep == []


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
_results = st.builds(
    lambda index, output, error, attempts, seconds, status: BatchResult(
        index,
        {"x": index},
        success=status == "ok",
        output=output,
        error=None if status == "ok" else error,
        error_type=None if status == "ok" else "ValueError",
        attempts=attempts,
        execution_time=seconds,
        status=status,
    ),
    st.integers(0, 30) | st.integers(0, 2**60),
    _json,
    st.text(min_size=1),
    st.integers(0, 10),
    st.floats(0, 1e6),
    st.sampled_from(["ok", "failed", "timed_out"]),
)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_results, max_size=20), st.integers(1, 5))
def test_appended_items_are_restored(tmp_path: Path, results: list[BatchResult], group: int) -> None:
    path = tmp_path / "any.journal"
    path.unlink(missing_ok=True)
    write(path, results, group=group)
    last = {result.index: result for result in results}
    with Journal(path, FINGERPRINT) as journal:
        assert journal.held == len(last)
        assert journal.last_index == max(last, default=-1)
        for index, result in last.items():
            found = journal.restore(index, {"x": index})
            if result.status == "ok":
                result.status = "resumed"
            assert found == result


def test_large_journal_is_read_without_keeping_outputs(path: Path) -> None:
    count = 100_000
    loop = FakeLoop()
    journal = loop.start(Journal(path, FINGERPRINT, check_inputs=False))
    for index in range(count):
        journal.append(item(index, output=f"output {index} " * 8), index)
        if journal.pending > 5000:
            loop.settle(journal)
    journal.close()
    loop.settle(journal)
    assert loop.durable == list(range(count))
    assert path.stat().st_size > 22_000_000
    tracemalloc.start()
    try:
        with Journal(path, FINGERPRINT, check_inputs=False) as again:
            opened_bytes, peak_bytes = tracemalloc.get_traced_memory()
            assert opened_bytes < 2_500_000  # eight per item, plus the buffers of reading
            assert peak_bytes < 6_500_000
            assert again.held == count
            for index in range(0, count, 997):
                found = again.restore(index, None)
                assert found is not None
                assert found.output == f"output {index} " * 8
    finally:
        tracemalloc.stop()


def test_every_journal_error_has_its_exit_code() -> None:
    codes = {
        kind.__name__: kind.exit_code
        for kind in (JournalMismatchError, JournalDamagedError, JournalDiskError, JournalInUseError)
    }
    assert codes == {
        "JournalMismatchError": 3,
        "JournalDamagedError": 4,
        "JournalDiskError": 5,
        "JournalInUseError": 75,
    }
    assert issubclass(JournalDamagedError, FlowrtError)


def test_journal_never_reuses_a_standard_descriptor(path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from flowrt.journal import Journal
os.close(0), os.close(1), os.close(2)
with Journal({str(path)!r}, {{}}) as journal:
    for fd in (0, 1, 2):
        try:
            os.write(fd, b"a word from a C library")
        except OSError:
            pass
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=False)
    assert done.returncode == 0
    assert b"C library" not in path.read_bytes()


def test_only_journals_fail_without_posix_locks(path: Path) -> None:
    code = f"""
import sys, os, random, asyncio, concurrent.futures.thread  # of the standard library, which knows its platform
sys.modules["fcntl"] = None  # as on Windows
del os.register_at_fork
import asyncio, flowrt
assert asyncio.run(flowrt.BatchProcessor(abs).batch([-1])).success_rate == 1.0
try:
    asyncio.run(flowrt.BatchProcessor(abs, journal={str(path)!r}).batch([-1]))
except ValueError as exc:
    assert "needs POSIX file locks" in str(exc)
else:
    raise SystemExit("it was not refused")
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not path.exists()
