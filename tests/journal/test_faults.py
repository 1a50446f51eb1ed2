"""Disks that fill up, break, or cannot be written: told before the first item, or to every item that waits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowrt.errors import JournalDiskError
from flowrt.journal import Journal
from tests.journal.harness import BROKEN, FINGERPRINT, FULL, READ_ONLY, FaultyDisk, HastyDisk, Teller, held, item, write

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("code", [FULL, BROKEN, READ_ONLY])
@pytest.mark.parametrize(
    ("operation", "number"), [("write", 1), ("sync", 1), ("write", 2), ("sync", 2), ("sync_folder", 1), ("reserve", 1)]
)
def test_a_disk_that_will_not_do_is_told_before_the_first_item(
    path: Path, operation: str, number: int, code: int
) -> None:
    disk = FaultyDisk({operation: (number, code)}, forever=True)
    with pytest.raises(JournalDiskError, match=os.strerror(code)) as caught:
        Journal(path, FINGERPRINT, disk=disk)
    assert caught.value.exit_code == 5
    assert str(path) in str(caught.value)
    assert disk.calls.count(operation) == number  # and not asked again
    assert held(path, [0]) == {}


def test_a_resumed_journal_on_a_full_disk_is_told_before_the_first_item_and_kept(path: Path) -> None:
    write(path, [item(0)])
    for operation in ("write", "sync", "reserve"):
        with pytest.raises(JournalDiskError):
            Journal(path, FINGERPRINT, disk=FaultyDisk({operation: (1, FULL)}))
    assert held(path, [0]) == {0: "resumed"}


def test_a_file_that_may_not_be_written_is_told_when_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(READ_ONLY, os.strerror(READ_ONLY))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(JournalDiskError, match="opening it failed: Read-only file system"):
        Journal(path, FINGERPRINT)


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("code", [FULL, BROKEN])
@pytest.mark.parametrize("operation", ["write", "sync"])
def test_everything_that_waits_is_told_and_nothing_is_tried_again(
    path: Path, operation: str, code: int, threaded: bool
) -> None:
    disk, teller = FaultyDisk({operation: (4, code)}), Teller()  # two belong to opening, one to the first group
    journal = teller.start(Journal(path, FINGERPRINT, disk=disk), threaded=threaded)
    journal.append(item(0), 0)
    teller.settle(journal)
    for index in range(1, 50):
        journal.append(item(index), index)
    teller.settle(journal)
    calls = list(disk.calls)
    assert teller.durable == [0]
    assert teller.lost == list(range(1, 50))
    [error] = teller.errors
    assert isinstance(error, JournalDiskError)
    assert os.strerror(code) in str(error)
    assert journal.error is error
    with pytest.raises(JournalDiskError):
        journal.append(item(50), 50)
    journal.close()
    assert disk.calls == calls
    assert disk.calls.count(operation) == 4
    assert held(path, range(51)) == {0: "resumed"}  # what nobody was told of is not there


def test_a_failure_at_any_call_loses_nothing_that_was_told_of(path: Path) -> None:
    count, number = 12, 0
    for operation in ("write", "sync"):
        for number in range(3, 3 + count):
            path.unlink(missing_ok=True)
            disk, teller = FaultyDisk({operation: (number, FULL)}, forever=True), Teller()
            journal = teller.start(Journal(path, FINGERPRINT, disk=disk), threaded=False)
            disk.short = 100  # so that a group takes two writes
            try:
                for index in range(count):
                    journal.append(item(index), index)
                    teller.settle(journal)
            except JournalDiskError:
                pass
            journal.close()
            assert teller.lost
            assert list(held(path, range(count), disk=HastyDisk())) == teller.durable
            write(path, [item(index) for index in range(len(teller.durable), count)], disk=HastyDisk())
            assert len(held(path, range(count), disk=HastyDisk())) == count


def test_even_where_the_torn_group_cannot_be_taken_out_a_resumed_run_goes_on(path: Path) -> None:
    disk, teller = FaultyDisk({"write": (4, FULL), "truncate": (2, BROKEN)}, forever=True), Teller()
    journal = teller.start(Journal(path, FINGERPRINT, disk=disk), threaded=False)
    disk.short = 100
    journal.append(item(0), 0)
    teller.settle(journal)
    journal.close()
    assert teller.lost == [0]
    with Journal(path, FINGERPRINT) as again:
        assert again.torn_bytes == 100 - len("00000000 @ 152 164\n")
        assert again.held == 0


def test_a_disk_that_takes_a_few_bytes_at_a_time_is_served(path: Path) -> None:
    write(path, [item(index) for index in range(5)], disk=FaultyDisk(short=7))
    assert len(held(path, range(5))) == 5


def test_a_disk_that_takes_nothing_is_full(path: Path) -> None:
    with pytest.raises(JournalDiskError, match=os.strerror(FULL)):
        Journal(path, FINGERPRINT, disk=FaultyDisk(short=0))


def test_a_failure_while_closing_is_raised_there(path: Path) -> None:
    teller = Teller()
    journal = teller.start(Journal(path, FINGERPRINT, disk=FaultyDisk({"sync": (3, BROKEN)})), threaded=False)
    journal.append(item(0), 0)
    with pytest.raises(JournalDiskError):
        journal.close()
    teller.settle(journal)
    assert teller.lost == [0]


def test_a_last_line_that_cannot_be_written_harms_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, [item(0)], disk=FaultyDisk({"sync": (4, BROKEN)}))
    assert "which nothing depends on" in caplog.text
    assert held(path, [0]) == {0: "resumed"}


def test_a_file_that_is_removed_under_it_fails(path: Path) -> None:
    teller = Teller()
    journal = teller.start(Journal(path, FINGERPRINT))
    path.unlink()
    journal.append(item(0), 0)
    teller.settle(journal)
    journal.close()
    assert teller.lost == [0]
    assert "it was removed while the run went on" in str(teller.errors[0])


def test_a_file_that_somebody_else_empties_fails(path: Path) -> None:
    teller = Teller()
    journal = teller.start(Journal(path, FINGERPRINT))
    path.write_bytes(b"")
    journal.append(item(0), 0)
    teller.settle(journal)
    journal.close()
    assert teller.lost == [0]
    assert "its size was changed by somebody else" in str(teller.errors[0])


_LIMITED = """
import resource, sys
from tests.journal.harness import FINGERPRINT, Teller, item
from flowrt.journal import Journal
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
teller = Teller()
journal = teller.start(Journal(sys.argv[1], FINGERPRINT))
for index in range(100):
    journal.append(item(index, output="x" * 50_000), index)
    teller.settle(journal)
    if teller.lost:
        break
print(teller.durable[-1], teller.lost, teller.errors[0], sep="|")
"""


@pytest.mark.parametrize("limit", [500_000, 2_000_000])
def test_the_systems_own_limit_on_a_files_size_is_a_disk_that_failed(path: Path, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(path), str(limit)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if limit < 1 << 20:  # less than has to be free
        assert "JournalDiskError" in done.stderr
        assert "File too large" in done.stderr
        return
    last, lost, error = done.stdout.strip().split("|")
    assert lost == f"[{int(last) + 1}]"
    assert "File too large" in error
    assert done.stderr == ""
    assert list(held(path, range(100))) == list(range(int(last) + 1))
