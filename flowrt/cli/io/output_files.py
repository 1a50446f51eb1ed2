"""Destinations of results: a file that gets its final name only when complete, standard output, a pipe or a device."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from flowrt._util.atomic_file import FileInUseError, move_into_place, open_locked, release
from flowrt.cli.exit_codes import BAD_USAGE, DISK_FAILED, CommandError, say
from flowrt.cli.io.sources import standard_stream

__all__ = ["FileTarget", "OutputClosedError", "StreamTarget", "Target", "claim_stdout", "open_target"]

_DISK_ERRORS: Final = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG)


class OutputClosedError(Exception):
    """The reader of standard output has closed it."""


class FileTarget:
    """File written as `<output>.partial` with mode 0600, then synced and renamed to its final name.

    Args:
        path: The final name.
        overwrite: Replace an existing file.
        inputs: File status of each input, which the output must not be.
        is_own: Returns True for an output of this very run, which may be replaced without `overwrite`.

    Raises:
        CommandError: The output exists, is the input, a symlink or a folder, or cannot be created.
    """

    def __init__(
        self,
        path: Path,
        *,
        overwrite: bool,
        inputs: Sequence[os.stat_result],
        is_own: Callable[[Path], bool] = lambda _: False,
    ) -> None:
        self.name = str(path)
        self.partial = path.with_name(f"{path.name}.partial")
        self.written = False
        self._started = False
        self._path = path
        self._overwrite = overwrite
        self._is_own = is_own
        self._check(path, inputs)
        self._check(self.partial, inputs)
        self.fd = self._open()
        _open_targets.add(self)

    def _check(self, path: Path, inputs: Sequence[os.stat_result]) -> None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise _unwritable(self.name, exc) from exc
        with contextlib.suppress(OSError):
            if any(os.path.samestat(path.stat(), each) for each in inputs):
                raise CommandError(f"{path} is the input itself: give the output another name")
        if stat.S_ISLNK(status.st_mode):
            raise CommandError(f"output {path} is a symlink: name the file that it points to")
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise CommandError(f"output {path} is {kind}: name a file")
        if path == self._path and not self._overwrite:
            if self._is_own(path):
                self._overwrite = True
                return
            raise CommandError(f"output {path} exists: pass --overwrite to replace it")

    def _open(self) -> int:
        try:
            fd = open_locked(self.partial)
        except FileInUseError as exc:
            raise CommandError(str(exc)) from None
        except OSError as exc:
            raise _unwritable(self.name, exc) from exc
        try:
            os.fchmod(fd, 0o600)
        except OSError as exc:
            os.close(fd)
            raise _unwritable(self.name, exc) from exc
        return fd

    def _truncate_leftover(self) -> None:
        """Truncate the leftover of an unfinished run, once there is data to replace it."""
        self._started = True
        if os.fstat(self.fd).st_size:
            say(f"replacing {self.partial}, which an unfinished run left")
        os.ftruncate(self.fd, 0)

    def commit(self) -> None:
        """Sync the file and rename it to its final name."""
        if not self._started:
            self._truncate_leftover()
        try:
            move_into_place(self.fd, self.partial, self._path, replace=self._overwrite)
        except FileExistsError:
            raise CommandError(f"output {self._path} appeared during the run and was not replaced") from None

    def abandon(self) -> None:
        """Keep an incomplete file under its temporary name, or delete it if it is empty."""
        if not self.written:
            with contextlib.suppress(OSError):
                if not os.fstat(self.fd).st_size:  # otherwise an earlier run wrote it
                    self.partial.unlink()
        elif self.partial.exists():
            say(f"not complete: finished items are in {self.partial}")

    def close(self) -> None:
        """Close the file and release its lock."""
        _open_targets.discard(self)
        release(self.fd)
        os.close(self.fd)

    def close_in_child(self) -> None:
        """Close the file in a forked child; the parent keeps the lock."""
        _open_targets.discard(self)
        with contextlib.suppress(OSError):
            os.close(self.fd)

    def write(self, data: memoryview) -> int:
        """Write some of the data and return the number of bytes."""
        if not self._started:
            self._truncate_leftover()
        return os.write(self.fd, data)

    def stop_waiting(self) -> None:
        """Do nothing: a file never blocks for long."""


class StreamTarget:
    """Standard output, a pipe or a device, written in place.

    Args:
        fd: File descriptor; closed by `close`.
        name: Name for messages.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.written = False
        self._stop_waiting = False

    def commit(self) -> None:
        """Do nothing: everything is written already."""

    def abandon(self) -> None:
        """Do nothing: a stream cannot be taken back."""

    def write(self, data: memoryview) -> int:
        """Write some of the data and return the number of bytes. After `stop_waiting`, discard what would block."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while not poll.poll(100):
            if self._stop_waiting:
                return len(data)
        try:
            return os.write(self.fd, data[: select.PIPE_BUF])  # poll guarantees room for this much
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise OutputClosedError from None

    def close(self) -> None:
        """Close the stream."""
        os.close(self.fd)

    def stop_waiting(self) -> None:
        """Discard data that the reader does not accept at once."""
        self._stop_waiting = True


Target = FileTarget | StreamTarget

_open_targets: Final[weakref.WeakSet[FileTarget]] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for target in list(_open_targets):
        target.close_in_child()


os.register_at_fork(after_in_child=_close_all_in_child)


def open_target(
    output: str,
    *,
    stdout: int | None,
    overwrite: bool,
    inputs: Sequence[os.stat_result],
    is_own: Callable[[Path], bool] = lambda _: False,
) -> Target:
    """Open the output before the first item.

    Args:
        output: Path of the output.
        stdout: File descriptor from `claim_stdout` if the output is standard output.
        overwrite: Replace an existing file.
        inputs: File status of each input.
        is_own: Returns True for an output of this very run, which may be replaced without `overwrite`.

    Raises:
        CommandError: The output exists, is the input, a symlink or a folder, or cannot be created.
    """
    if stdout is not None:
        fd = stdout
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and any(os.path.samestat(status, each) for each in inputs):
            raise CommandError("standard output is the input itself: give the output another name")
        return StreamTarget(fd, "standard output")
    path = Path(output)
    if not path.name:
        raise CommandError(f"output {output!r} is a folder: name a file in it")
    stream = standard_stream(output)
    try:
        if stream is not None:  # its own file description: opening /dev/fd/3 anew would truncate a file
            return StreamTarget(os.dup(stream), output)
        mode = path.lstat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):  # /dev/null must never be replaced by a file
            return StreamTarget(os.open(path, os.O_WRONLY | os.O_CLOEXEC), output)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as exc:
        if stream is not None or not isinstance(exc, (NotADirectoryError, ValueError)):
            raise _unwritable(output, exc) from exc
    if not path.parent.is_dir():
        raise CommandError(f"output folder {str(path.parent)!r} does not exist: create it first")
    return FileTarget(path, overwrite=overwrite, inputs=inputs, is_own=is_own)


def claim_stdout() -> int:
    """Reserve standard output for results. Everything else printed to it goes to stderr from now on.

    Returns:
        File descriptor for the results.

    Raises:
        CommandError: Standard output is closed.
    """
    try:
        fd = os.dup(1)
    except OSError as exc:
        raise CommandError("standard output is closed: name a file with -o") from exc
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # stderr may be closed
        os.dup2(2, 1)
    return fd


def _unwritable(name: str, exc: OSError | ValueError) -> CommandError:
    code = DISK_FAILED if isinstance(exc, OSError) and exc.errno in _DISK_ERRORS else BAD_USAGE
    return CommandError(f"output {name} cannot be written: {getattr(exc, 'strerror', None) or exc}", code)
