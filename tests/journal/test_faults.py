"""Disks that fill up, break or are read-only: reported before the first item, or to every pending item."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flowrt.errors import JournalDiskError
from flowrt.journal import Journal
from tests.journal.harness import (
    BROKEN,
    FINGERPRINT,
    FULL,
    READ_ONLY,
    FakeLoop,
    FaultyDisk,
    HastyDisk,
    item,
    restored,
    write,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("code", [FULL, BROKEN, READ_ONLY])
@pytest.mark.parametrize(
    ("operation", "number"), [("write", 1), ("sync", 1), ("write", 2), ("sync", 2), ("sync_folder", 1), ("reserve", 1)]
)
def test_failing_disk_is_reported_before_the_first_item(path: Path, operation: str, number: int, code: int) -> None:
    disk = FaultyDisk({operation: (number, code)}, forever=True)
    with pytest.raises(JournalDiskError, match=os.strerror(code)) as caught:
        Journal(path, FINGERPRINT, disk=disk)
    assert caught.value.exit_code == 5
    assert str(path) in str(caught.value)
    assert disk.calls.count(operation) == number  # and no second call
    assert restored(path, [0]) == {}


def test_full_disk_is_reported_before_a_resumed_run_starts(path: Path) -> None:
    write(path, [item(0)])
    for operation in ("write", "sync", "reserve"):
        with pytest.raises(JournalDiskError):
            Journal(path, FINGERPRINT, disk=FaultyDisk({operation: (1, FULL)}))
    assert restored(path, [0]) == {0: "resumed"}


def test_unwritable_file_is_reported_at_opening(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(READ_ONLY, os.strerror(READ_ONLY))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(JournalDiskError, match="opening it failed: Read-only file system"):
        Journal(path, FINGERPRINT)


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("code", [FULL, BROKEN])
@pytest.mark.parametrize("operation", ["write", "sync"])
def test_failure_is_reported_for_all_pending_and_not_retried(
    path: Path, operation: str, code: int, threaded: bool
) -> None:
    all_queued, loop = threading.Event(), FakeLoop()

    class Held(FaultyDisk):
        def _pass(self, operation: str) -> None:
            if loop.durable:  # or the disk would fail, and refuse the rest, before all items are queued
                assert all_queued.wait(60)
            super()._pass(operation)

    disk = Held({operation: (4, code)})  # two calls at opening, one for the first group
    journal = loop.start(Journal(path, FINGERPRINT, disk=disk), threaded=threaded)
    journal.append(item(0), 0)
    loop.settle(journal)
    for index in range(1, 50):
        journal.append(item(index), index)
    all_queued.set()
    loop.settle(journal)
    calls = list(disk.calls)
    assert loop.durable == [0]
    assert loop.lost == list(range(1, 50))
    [error] = loop.errors
    assert isinstance(error, JournalDiskError)
    assert os.strerror(code) in str(error)
    assert journal.error is error
    with pytest.raises(JournalDiskError):
        journal.append(item(50), 50)
    journal.close()
    assert disk.calls == calls
    assert disk.calls.count(operation) == 4
    assert restored(path, range(51)) == {0: "resumed"}  # no unreported item is in the file


def test_failure_at_any_call_loses_no_durable_item(path: Path) -> None:
    count, number = 12, 0
    for operation in ("write", "sync"):
        for number in range(3, 3 + count):
            path.unlink(missing_ok=True)
            disk, loop = FaultyDisk({operation: (number, FULL)}, forever=True), FakeLoop()
            journal = loop.start(Journal(path, FINGERPRINT, disk=disk), threaded=False)
            disk.short = 100  # so that a group takes two writes
            try:
                for index in range(count):
                    journal.append(item(index), index)
                    loop.settle(journal)
            except JournalDiskError:
                pass
            journal.close()
            assert loop.lost
            assert list(restored(path, range(count), disk=HastyDisk())) == loop.durable
            write(path, [item(index) for index in range(len(loop.durable), count)], disk=HastyDisk())
            assert len(restored(path, range(count), disk=HastyDisk())) == count


def test_run_resumes_though_the_torn_group_was_not_cut_off(path: Path) -> None:
    disk, loop = FaultyDisk({"write": (4, FULL), "truncate": (2, BROKEN)}, forever=True), FakeLoop()
    journal = loop.start(Journal(path, FINGERPRINT, disk=disk), threaded=False)
    disk.short = 100
    journal.append(item(0), 0)
    loop.settle(journal)
    journal.close()
    assert loop.lost == [0]
    with Journal(path, FINGERPRINT) as again:
        assert again.torn_bytes == 100 - len("00000000 @ 152 164\n")
        assert again.held == 0


def test_short_writes_are_continued(path: Path) -> None:
    write(path, [item(index) for index in range(5)], disk=FaultyDisk(short=7))
    assert len(restored(path, range(5))) == 5


def test_write_of_zero_bytes_counts_as_a_full_disk(path: Path) -> None:
    with pytest.raises(JournalDiskError, match=os.strerror(FULL)):
        Journal(path, FINGERPRINT, disk=FaultyDisk(short=0))


def test_failure_while_closing_is_raised_by_close(path: Path) -> None:
    loop = FakeLoop()
    journal = loop.start(Journal(path, FINGERPRINT, disk=FaultyDisk({"sync": (3, BROKEN)})), threaded=False)
    journal.append(item(0), 0)
    with pytest.raises(JournalDiskError):
        journal.close()
    loop.settle(journal)
    assert loop.lost == [0]


def test_failed_final_marker_is_logged_and_loses_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, [item(0)], disk=FaultyDisk({"sync": (4, BROKEN)}))
    assert "without its final marker; no item is lost" in caplog.text
    assert restored(path, [0]) == {0: "resumed"}


def test_removed_file_fails_the_journal(path: Path) -> None:
    loop = FakeLoop()
    journal = loop.start(Journal(path, FINGERPRINT))
    path.unlink()
    journal.append(item(0), 0)
    loop.settle(journal)
    journal.close()
    assert loop.lost == [0]
    assert "it was removed while the run went on" in str(loop.errors[0])


def test_file_emptied_by_another_program_fails_the_journal(path: Path) -> None:
    loop = FakeLoop()
    journal = loop.start(Journal(path, FINGERPRINT))
    path.write_bytes(b"")
    journal.append(item(0), 0)
    loop.settle(journal)
    journal.close()
    assert loop.lost == [0]
    assert "another program changed its size" in str(loop.errors[0])


_LIMITED = """
import resource, sys
from tests.journal.harness import FINGERPRINT, FakeLoop, item
from flowrt.journal import Journal
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
loop = FakeLoop()
journal = loop.start(Journal(sys.argv[1], FINGERPRINT))
for index in range(100):
    journal.append(item(index, output="x" * 50_000), index)
    loop.settle(journal)
    if loop.lost:
        break
print(loop.durable[-1], loop.lost, loop.errors[0], sep="|")
"""


@pytest.mark.parametrize("limit", [500_000, 2_000_000])
def test_file_size_limit_counts_as_a_failed_disk(path: Path, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(path), str(limit)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if limit < 1 << 20:  # less than the reserved space
        assert "JournalDiskError" in done.stderr
        assert "File too large" in done.stderr
        return
    last, lost, error = done.stdout.strip().split("|")
    assert lost == f"[{int(last) + 1}]"
    assert "File too large" in error
    assert done.stderr == ""
    assert list(restored(path, range(100))) == list(range(int(last) + 1))
