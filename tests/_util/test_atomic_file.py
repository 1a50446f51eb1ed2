"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from flowrt._util import atomic_file
from flowrt._util.atomic_file import (
    DiskFailedError,
    FileInUseError,
    OutputFile,
    open_locked,
    open_private,
    release,
    write_private,
)
from flowrt.errors import FlowrtError

HANG_S = 60.0


def test_private_file_replaces_the_old_one_with_mode_0600(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("a longer text than the new one")
    target.chmod(0o644)
    write_private(target, "new \udc80")
    assert target.read_text() == "new ?"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_threads_that_write_one_file_at_once_leave_one_whole_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, both, errors = tmp_path / "report.html", threading.Barrier(2), []
    fsync = atomic_file.os.fsync

    def together(fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            both.wait(HANG_S)  # each thread has written its text, and neither has moved its file
        fsync(fd)

    def write(text: str) -> None:
        try:
            write_private(target, text)
        except OSError as exc:
            errors.append(exc)

    monkeypatch.setattr(atomic_file.os, "fsync", together)
    texts = ["a" * 10_000, "b" * 20_000]
    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert errors == []
    assert target.read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_failed_write_keeps_the_old_file_and_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "report.html"
    target.write_text("old")
    monkeypatch.setattr(atomic_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_private_file_is_never_opened_through_a_symlink(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "link").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic"):
        open_private(tmp_path / "link")
    with pytest.raises(FileExistsError):
        open_private(precious, new=True)
    assert precious.read_text() == "precious"


def test_output_file_takes_its_name_only_when_complete(tmp_path: Path) -> None:
    output = OutputFile(tmp_path / "new" / "out.jsonl", replace=False)
    output.partial.write_bytes(b"left by an earlier run")
    output.write(b"1\n")
    output.close(complete=False)
    assert not output.path.exists()
    output = OutputFile(output.path, replace=False)
    output.write(b"2\n")
    output.close(complete=True)
    output.close(complete=True)
    assert output.path.read_bytes() == b"2\n"
    assert not output.partial.exists()
    with pytest.raises(FlowrtError, match="exists: name another file"):
        OutputFile(output.path, replace=False)
    with pytest.raises(FlowrtError, match="is a folder"):
        OutputFile(tmp_path, replace=True)


def test_output_that_another_run_writes_is_refused_and_left_alone(tmp_path: Path) -> None:
    first = OutputFile(tmp_path / "out.jsonl", replace=True)
    first.write(b"1\n")
    with pytest.raises(FlowrtError, match=r"another run is writing .*out\.jsonl\.partial: wait until it ends, or name"):
        OutputFile(first.path, replace=True)
    first.close(complete=True)
    assert first.path.read_bytes() == b"1\n"
    second = OutputFile(first.path, replace=True)
    second.write(b"2\n")
    second.close(complete=False)
    third = OutputFile(first.path, replace=True)  # what an incomplete run has left may be replaced
    third.write(b"3\n")
    third.close(complete=True)
    assert first.path.read_bytes() == b"3\n"


def test_lock_of_a_file_that_was_renamed_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, calls = tmp_path / "out.partial", []

    def renamed_once(path: Path) -> int:
        fd = open_private(path)
        if not calls:
            path.rename(tmp_path / "out")  # by a run that has ended between the opening and the lock
        calls.append(fd)
        return fd

    monkeypatch.setattr(atomic_file, "open_private", renamed_once)
    fd = open_locked(partial)
    assert len(calls) == 2
    assert os.path.samestat(os.fstat(fd), partial.stat())
    with pytest.raises(FileInUseError):
        open_locked(partial)
    release(fd)
    os.close(fd)


def test_empty_output_that_is_not_complete_is_removed(tmp_path: Path) -> None:
    OutputFile(tmp_path / "out.jsonl", replace=False).close(complete=False)
    assert not list(tmp_path.iterdir())


def test_full_disk_is_reported_once_with_the_temporary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    output = OutputFile(tmp_path / "out.jsonl", replace=False)
    output.write(b"1\n")
    monkeypatch.setattr(atomic_file.os, "fsync", full)
    with pytest.raises(DiskFailedError, match=r"out\.jsonl\.partial cannot be written: No space"):
        output.close(complete=True)
    output.close(complete=False)
    assert not output.path.exists()
