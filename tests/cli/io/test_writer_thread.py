"""Writer thread and output files: an output gets its final name only when complete."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from flowrt import BatchProcessor
from flowrt.cli.commands.run_job import Job, Outputs
from flowrt.cli.exit_codes import CommandError
from flowrt.cli.io import output_files as targets
from flowrt.cli.io.output_files import FileTarget, OutputClosedError, StreamTarget, open_target
from flowrt.cli.io.readers import open_input
from flowrt.cli.io.result_lines import LineMaker
from flowrt.cli.io.writer_thread import OutputWriter

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write an input, which the output must not be."""
    path = tmp_path / "in.jsonl"
    path.write_text("1\n")
    return path


def opened(path: Path, source: Path, *, overwrite: bool = False) -> targets.Target:
    return open_target(str(path), stdout=None, overwrite=overwrite, inputs=[source.stat()])


def refused(path: Path | str, source: Path, *, overwrite: bool = True) -> str:
    with pytest.raises(CommandError) as caught:
        opened(Path(path), source, overwrite=overwrite)
    assert caught.value.exit_code == 2
    return caught.value.message


async def write(target: targets.Target, *lines: bytes, complete: bool = True) -> None:
    writer = OutputWriter(target)
    try:
        for line in lines:
            await writer.write(line)
    except BaseException:
        await writer.close(complete=False)
        raise
    await writer.close(complete=complete)


def test_complete_output_has_its_name_and_mode_0600(run: Run, source: Path) -> None:
    path = source.with_name("out.jsonl")
    run(write(opened(path, source), b"a\n", b"b\n"))
    assert path.read_bytes() == b"a\nb\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.with_name("out.jsonl.partial").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flowrt-writer")]


def test_incomplete_output_keeps_the_partial_name(run: Run, source: Path, capsys: Any) -> None:
    path = source.with_name("out.jsonl")
    run(write(opened(path, source), b"a\n", complete=False))
    assert not path.exists()
    partial = path.with_name("out.jsonl.partial")
    assert partial.read_bytes() == b"a\n"
    assert stat.S_IMODE(partial.stat().st_mode) == 0o600
    assert str(partial) in capsys.readouterr().err


def test_empty_incomplete_output_is_deleted(run: Run, source: Path) -> None:
    run(write(opened(source.with_name("out"), source), complete=False))
    assert [path.name for path in source.parent.iterdir()] == ["in.jsonl"]


def test_output_missing_counted_items_is_not_complete(run: Run, source: Path, capsys: Any) -> None:
    async def node(x: int) -> int:
        return x

    source.write_text("1\n2\n3\n")
    opened_input = open_input([str(source)])
    os.truncate(source, 2)
    path = source.with_name("out")
    job = Job(
        BatchProcessor(node, telemetry=False), opened_input, Outputs(opened(path, source), LineMaker()), progress=False
    )
    run(job.run(lambda: None))
    assert (job.complete, job.exit_code) == (False, 1)
    assert not path.exists()
    assert path.with_name("out.partial").read_text().count("\n") == 1
    assert "the input had 3 items when it was opened, and 1 were read" in capsys.readouterr().err


def test_megabytes_are_written_completely_and_in_order(run: Run, source: Path) -> None:
    path = source.with_name("out")
    lines = [b"%08d" % i + b"x" * 1000 + b"\n" for i in range(20_000)]
    run(write(opened(path, source), *lines))
    assert path.read_bytes() == b"".join(lines)


def test_existing_output_is_replaced_only_with_overwrite(run: Run, source: Path) -> None:
    path = source.with_name("out")
    path.write_text("old")
    assert "--overwrite" in refused(path, source, overwrite=False)
    assert path.read_text() == "old"
    run(write(opened(path, source, overwrite=True), b"new\n"))
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_output_created_during_the_run_is_not_replaced(run: Run, source: Path) -> None:
    path = source.with_name("out")
    target = opened(path, source)
    path.write_text("another run's")
    with pytest.raises(CommandError, match="appeared"):
        run(write(target, b"ours\n"))
    assert path.read_text() == "another run's"
    assert path.with_name("out.partial").read_bytes() == b"ours\n"


def test_output_that_is_the_input_is_refused_under_any_name(source: Path) -> None:
    (source.parent / "link").symlink_to(source)
    os.link(source, source.parent / "hard")
    for name in ("in.jsonl", "link", "hard"):
        assert "is the input itself" in refused(source.parent / name, source)
    (source.parent / "x.partial").hardlink_to(source)
    assert "is the input itself" in refused(source.parent / "x", source)
    assert source.read_text() == "1\n"


def test_symlinks_and_folders_are_refused_as_output(source: Path) -> None:
    folder = source.parent
    (folder / "dangling").symlink_to(folder / "nosuch")
    (folder / "via.partial").symlink_to(folder / "nosuch")
    (folder / "sub").mkdir()
    assert "is a symlink" in refused(folder / "dangling", source)
    assert "is a symlink" in refused(folder / "via", source)
    assert "is a folder" in refused(folder / "sub", source)
    assert "does not exist" in refused(folder / "missing" / "out", source)
    assert "cannot be written" in refused("/proc/self/out.jsonl", source)
    assert not (folder / "nosuch").exists()


def test_output_in_a_read_only_folder_is_bad_usage(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *rest)

    monkeypatch.setattr(targets.os, "open", read_only)
    assert "Read-only file system" in refused(source.with_name("out"), source)


def test_second_run_is_refused_the_same_output(run: Run, source: Path) -> None:
    path = source.with_name("out")
    first = opened(path, source)
    assert "another run is writing" in refused(path, source)
    run(write(first, b"a\n"))
    assert path.read_bytes() == b"a\n"


@pytest.mark.parametrize("end", ["killed", "left while a child is being made"])
def test_forked_child_does_not_keep_the_output_locked(end: str, source: Path) -> None:
    path = source.with_name("out")
    target = opened(path, source)
    read, write_end = os.pipe()
    beside = os.dup(target.fd) if end != "killed" else -1
    sleeper = os.fork()
    if sleeper == 0:
        os.write(write_end, b".")
        threading.Event().wait(60)
        os._exit(0)
    try:
        assert os.read(read, 1) == b"."
        if end == "killed":
            os.close(target.fd)  # what the system does for a killed process
        else:
            assert "another run is writing" in refused(path, source)  # the child must not release its parent's lock
            target.close()
        opened(path, source).close()
    finally:
        os.kill(sleeper, 9)
        os.waitpid(sleeper, 0)
        for fd in (read, write_end, beside):
            if fd >= 0:
                os.close(fd)


def test_leftover_of_an_unfinished_run_is_replaced_with_a_message(run: Run, source: Path, capsys: Any) -> None:
    path = source.with_name("out")
    partial = path.with_name("out.partial")
    partial.write_text("a much longer text than what follows")
    partial.chmod(0o644)
    run(write(opened(path, source), b"a\n"))
    assert path.read_bytes() == b"a\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"replacing {partial}" in capsys.readouterr().err


def test_leftover_is_replaced_by_an_empty_output(run: Run, source: Path) -> None:
    path = source.with_name("out")
    path.with_name("out.partial").write_text("of another run")
    run(write(opened(path, source)))
    assert path.read_bytes() == b""


def test_full_disk_is_an_error_and_not_a_complete_output(run: Run, source: Path) -> None:
    target = opened(Path("/dev/full"), source)
    assert isinstance(target, StreamTarget)
    with pytest.raises(CommandError, match="No space left") as caught:
        run(write(target, b"a\n"))
    assert caught.value.exit_code == 5


def test_failing_sync_keeps_the_partial_file(run: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    path = source.with_name("out")
    target = opened(path, source)
    monkeypatch.setattr(targets.os, "fsync", failing)
    with pytest.raises(CommandError, match="Input/output error") as caught:
        run(write(target, b"a\n"))
    assert caught.value.exit_code == 5
    assert len(calls) == 1
    assert not path.exists()
    assert path.with_name("out.partial").read_bytes() == b"a\n"


def test_commit_syncs_the_file_and_its_folder(run: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def noted(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    target = opened(source.with_name("out"), source)
    monkeypatch.setattr(targets.os, "fsync", noted)
    run(write(target, b"a\n"))
    assert synced == [str(source.with_name("out.partial")), str(source.parent)]


def test_device_is_written_to_and_not_replaced(run: Run, source: Path) -> None:
    before = Path("/dev/null").stat().st_ino
    run(write(opened(Path("/dev/null"), source), b"a\n"))
    assert Path("/dev/null").stat().st_ino == before
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_closed_pipe_is_not_reported_as_a_disk_failure(run: Run) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(OutputClosedError):
        run(write(StreamTarget(writer, "standard output"), b"a\n"))


def test_blocked_reader_does_not_delay_an_early_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrt.cli.io.writer_thread._GRACE_S", 0.1)
    reader, end = os.pipe()

    async def main() -> None:
        writer = OutputWriter(StreamTarget(end, "standard output"))
        await writer.write(b"x" * 3_000_000)
        await asyncio.to_thread(select.select, [reader], [], [], 60)  # until the thread writes
        await writer.close(complete=False)

    run(main())
    with os.fdopen(reader, "rb") as pipe:
        assert 0 < len(pipe.read()) < 3_000_000  # what the pipe took; the rest was discarded


def test_slow_reader_blocks_the_batch_but_not_the_loop(run: Run) -> None:
    reader, end = os.pipe()

    async def main() -> None:
        writer = OutputWriter(StreamTarget(end, "standard output"))
        writing = asyncio.ensure_future(writer.write(b"x" * 5_000_000))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not writing.done()
        got = 0
        while got < 5_000_000:
            got += len(await asyncio.to_thread(os.read, reader, 1 << 20))
        await writing
        await writer.close(complete=True)

    run(main())
    os.close(reader)


def test_folder_name_as_output_is_refused(source: Path) -> None:
    with pytest.raises(CommandError, match="is a folder"):
        open_target("/", stdout=None, overwrite=True, inputs=[source.stat()])


def test_file_target_exposes_its_partial_name(source: Path) -> None:
    target = opened(source.with_name("out"), source)
    assert isinstance(target, FileTarget)
    assert target.partial.name == "out.partial"
    target.close()


def test_timer_flush_during_close_loses_no_line(run: Run, source: Path) -> None:
    path, go_on = source.with_name("out.jsonl"), threading.Event()

    class Slow(FileTarget):
        def write(self, data: memoryview) -> int:
            go_on.wait(60)
            return super().write(data)

    async def main() -> None:
        writer = OutputWriter(Slow(path, overwrite=False, inputs=[source.stat()]))
        await writer.write(b"a\n")
        writer._flush()
        first = writer._flushing
        assert first is not None
        await writer.write(b"b\n")
        closing = asyncio.ensure_future(writer.close(complete=True))
        await asyncio.sleep(0)
        first.add_done_callback(lambda _: writer._flush())
        go_on.set()
        await closing

    run(main())
    assert path.read_bytes() == b"a\nb\n"
