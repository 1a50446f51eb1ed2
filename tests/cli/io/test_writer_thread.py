"""The output: written behind the loop's back, complete under its name or not there at all."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from flowrt import BatchProcessor
from flowrt.cli.commands.run_job import Job
from flowrt.cli.exit_codes import CommandError
from flowrt.cli.io import output_files as targets
from flowrt.cli.io.output_files import FileTarget, OutputClosedError, StreamTarget, open_target
from flowrt.cli.io.readers import open_input
from flowrt.cli.io.writer_thread import OutputWriter

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An input that the output must not be."""
    path = tmp_path / "in.jsonl"
    path.write_text("1\n")
    return path


def opened(path: Path, source: Path, *, overwrite: bool = False) -> targets.Target:
    return open_target(str(path), stdout=None, overwrite=overwrite, not_this=source.stat())


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


def test_a_complete_output_has_its_name_its_mode_and_nothing_beside_it(run: Run, source: Path) -> None:
    path = source.with_name("out.jsonl")
    run(write(opened(path, source), b"a\n", b"b\n"))
    assert path.read_bytes() == b"a\nb\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.with_name("out.jsonl.partial").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flowrt-writer")]


def test_until_it_is_complete_the_output_has_another_name(run: Run, source: Path, capsys: Any) -> None:
    path = source.with_name("out.jsonl")
    run(write(opened(path, source), b"a\n", complete=False))
    assert not path.exists()
    partial = path.with_name("out.jsonl.partial")
    assert partial.read_bytes() == b"a\n"
    assert stat.S_IMODE(partial.stat().st_mode) == 0o600
    assert str(partial) in capsys.readouterr().err


def test_a_run_that_wrote_nothing_leaves_nothing(run: Run, source: Path) -> None:
    run(write(opened(source.with_name("out"), source), complete=False))
    assert [path.name for path in source.parent.iterdir()] == ["in.jsonl"]


def test_an_output_that_lacks_items_of_the_input_as_it_was_counted_is_not_complete(
    run: Run, source: Path, capsys: Any
) -> None:
    async def node(x: int) -> int:
        return x

    source.write_text("1\n2\n3\n")
    opened_input = open_input(str(source))
    os.truncate(source, 2)
    path = source.with_name("out")
    job = Job(BatchProcessor(node, telemetry=False), opened_input, opened(path, source), progress=False)
    run(job.run())
    assert (job.complete, job.exit_code) == (False, 1)
    assert not path.exists()
    assert path.with_name("out.partial").read_text().count("\n") == 1
    assert "the input had 3 items when it was opened and 1 came" in capsys.readouterr().err


def test_megabytes_arrive_whole_and_in_order(run: Run, source: Path) -> None:
    path = source.with_name("out")
    lines = [b"%08d" % i + b"x" * 1000 + b"\n" for i in range(20_000)]
    run(write(opened(path, source), *lines))
    assert path.read_bytes() == b"".join(lines)


def test_an_existing_output_is_replaced_only_when_told(run: Run, source: Path) -> None:
    path = source.with_name("out")
    path.write_text("old")
    assert "--overwrite" in refused(path, source, overwrite=False)
    assert path.read_text() == "old"
    run(write(opened(path, source, overwrite=True), b"new\n"))
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_output_that_appears_meanwhile_is_left_as_it_is(run: Run, source: Path) -> None:
    path = source.with_name("out")
    target = opened(path, source)
    path.write_text("somebody else's")
    with pytest.raises(CommandError, match="appeared"):
        run(write(target, b"ours\n"))
    assert path.read_text() == "somebody else's"
    assert path.with_name("out.partial").read_bytes() == b"ours\n"


def test_the_input_is_never_the_output_under_any_name(source: Path) -> None:
    (source.parent / "link").symlink_to(source)
    os.link(source, source.parent / "hard")
    for name in ("in.jsonl", "link", "hard"):
        assert "is the input itself" in refused(source.parent / name, source)
    (source.parent / "x.partial").hardlink_to(source)
    assert "is the input itself" in refused(source.parent / "x", source)
    assert source.read_text() == "1\n"


def test_symlinks_folders_and_pipes_are_refused(source: Path) -> None:
    folder = source.parent
    (folder / "dangling").symlink_to(folder / "nosuch")
    (folder / "via.partial").symlink_to(folder / "nosuch")
    (folder / "sub").mkdir()
    os.mkfifo(folder / "fifo")
    assert "is a symlink" in refused(folder / "dangling", source)
    assert "is a symlink" in refused(folder / "via", source)
    assert "is a folder" in refused(folder / "sub", source)
    assert "no regular file" in refused(folder / "fifo", source)
    assert "does not exist" in refused(folder / "missing" / "out", source)
    assert "cannot be written" in refused("/proc/self/out.jsonl", source)
    assert not (folder / "nosuch").exists()


def test_a_read_only_folder_is_bad_usage(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *rest)

    monkeypatch.setattr(targets.os, "open", read_only)
    assert "Read-only file system" in refused(source.with_name("out"), source)


def test_two_runs_never_write_the_same_file(run: Run, source: Path) -> None:
    path = source.with_name("out")
    first = opened(path, source)
    assert "another run is writing" in refused(path, source)
    run(write(first, b"a\n"))
    assert path.read_bytes() == b"a\n"


@pytest.mark.parametrize("end", ["killed", "left while a child is being made"])
def test_a_child_that_outlives_a_run_does_not_keep_its_output(end: str, source: Path) -> None:
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
            os.close(target.fd)  # all that is left of a killed process
        else:
            assert "another run is writing" in refused(path, source)  # a child does not let go of its parent's lock
            target.close()
        opened(path, source).close()
    finally:
        os.kill(sleeper, 9)
        os.waitpid(sleeper, 0)
        for fd in (read, write_end, beside):
            if fd >= 0:
                os.close(fd)


def test_what_an_interrupted_run_left_is_replaced_and_told(run: Run, source: Path, capsys: Any) -> None:
    path = source.with_name("out")
    partial = path.with_name("out.partial")
    partial.write_text("a much longer text than what follows")
    partial.chmod(0o644)
    run(write(opened(path, source), b"a\n"))
    assert path.read_bytes() == b"a\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"replacing {partial}" in capsys.readouterr().err


def test_what_an_interrupted_run_left_is_replaced_by_no_results_too(run: Run, source: Path) -> None:
    path = source.with_name("out")
    path.with_name("out.partial").write_text("of another run")
    run(write(opened(path, source)))
    assert path.read_bytes() == b""


def test_a_full_disk_is_told_and_never_taken_for_complete(run: Run, source: Path) -> None:
    target = opened(Path("/dev/full"), source)
    assert isinstance(target, StreamTarget)
    with pytest.raises(CommandError, match="No space left") as caught:
        run(write(target, b"a\n"))
    assert caught.value.exit_code == 5


def test_a_failing_sync_leaves_the_partial_file(run: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_file_and_its_folder_are_synced(run: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def noted(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    target = opened(source.with_name("out"), source)
    monkeypatch.setattr(targets.os, "fsync", noted)
    run(write(target, b"a\n"))
    assert synced == [str(source.with_name("out.partial")), str(source.parent)]


def test_a_device_is_written_to_and_never_replaced(run: Run, source: Path) -> None:
    before = Path("/dev/null").stat().st_ino
    run(write(opened(Path("/dev/null"), source), b"a\n"))
    assert Path("/dev/null").stat().st_ino == before
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_closed_pipe_is_told_apart_from_a_failing_disk(run: Run) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(OutputClosedError):
        run(write(StreamTarget(writer, "standard output"), b"a\n"))


def test_a_reader_who_does_not_read_does_not_hold_up_an_early_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrt.cli.io.writer_thread._GRACE_S", 0.1)
    reader, writer = os.pipe()
    run(write(StreamTarget(writer, "standard output"), b"x" * 3_000_000, complete=False))
    with os.fdopen(reader, "rb") as end:
        assert 0 < len(end.read()) < 3_000_000  # what the pipe took; the rest was given up


def test_a_slow_reader_holds_the_batch_back_and_not_the_loop(run: Run) -> None:
    import asyncio

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


def test_a_name_that_is_a_folders_is_refused(source: Path) -> None:
    with pytest.raises(CommandError, match="is a folder"):
        open_target("/", stdout=None, overwrite=True, not_this=source.stat())


def test_a_file_target_shows_the_partial_name_it_writes_to(source: Path) -> None:
    target = opened(source.with_name("out"), source)
    assert isinstance(target, FileTarget)
    assert target.partial.name == "out.partial"
    target.close()


def test_a_timer_that_flushes_while_the_end_waits_for_the_flush_before_loses_nothing(run: Run, source: Path) -> None:
    path, go_on = source.with_name("out.jsonl"), threading.Event()

    class Slow(FileTarget):
        def put(self, data: memoryview) -> int:
            go_on.wait(60)
            return super().put(data)

    async def main() -> None:
        writer = OutputWriter(Slow(path, overwrite=False, not_this=source.stat()))
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
