"""Where results go: a file that takes its final name only when it is complete, standard output, or a device."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flowrt._util.atomic_file import move_into_place, open_private
from flowrt.cli.exit_codes import BAD_USAGE, DISK_FAILED, CommandError, say

__all__ = ["FileTarget", "OutputClosedError", "StreamTarget", "Target", "open_target", "own_stdout"]

_DISK_ERRORS: Final = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG)


class OutputClosedError(Exception):
    """Nobody reads standard output any more."""


class FileTarget:
    """A file that is written as `<output>.partial` beside its final name, with mode 0600, synced, and renamed.

    Args:
        path: The final name.
        overwrite: Whether a file of that name may be replaced.
        not_this: The input's status; neither name may mean the same file.
        ours: Whether a file of that name is what the run has written before, and may be replaced too.

    Raises:
        CommandError: The output exists, is the input, a symlink, a folder, or cannot be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        overwrite: bool,
        not_this: os.stat_result,
        ours: Callable[[Path], bool] = lambda _: False,
    ) -> None:
        self.name = str(path)
        self.partial = path.with_name(f"{path.name}.partial")
        self.written = False
        self._begun = False
        self._path = path
        self._overwrite = overwrite
        self._ours = ours
        self._check(path, not_this)
        self._check(self.partial, not_this)
        self.fd = self._open()
        _open_targets.add(self)

    def _check(self, path: Path, not_this: os.stat_result) -> None:
        try:
            there = path.lstat()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise _unwritable(self.name, exc) from exc
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), not_this):
                raise CommandError(f"{path} is the input itself: give the output another name")
        if stat.S_ISLNK(there.st_mode):
            raise CommandError(f"output {path} is a symlink: name the file that it points to")
        if not stat.S_ISREG(there.st_mode):
            kind = "a folder" if stat.S_ISDIR(there.st_mode) else "no regular file"
            raise CommandError(f"output {path} is {kind}: name a file")
        if path == self._path and not self._overwrite:
            if self._ours(path):
                self._overwrite = True
                return
            raise CommandError(f"output {path} exists: pass --overwrite to replace it")

    def _open(self) -> int:
        while True:
            try:
                fd = open_private(self.partial)
            except OSError as exc:
                raise _unwritable(self.name, exc) from exc
            try:
                self._claim(fd)
                if not os.path.samestat(os.fstat(fd), self.partial.lstat()):
                    os.close(fd)  # another run has moved it into place since it was opened
                    continue
                os.fchmod(fd, 0o600)
            except FileNotFoundError:
                os.close(fd)
                continue
            except OSError as exc:
                os.close(fd)
                raise _unwritable(self.name, exc) from exc
            return fd

    def _claim(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise CommandError(f"another run is writing {self.partial}: wait for it, or name another output") from None
        except OSError:
            return  # a filesystem without locks

    def _begin(self) -> None:
        """Take away what a run that did not finish has left: not before there is something in its place."""
        self._begun = True
        if os.fstat(self.fd).st_size:
            say(f"replacing {self.partial}, left by a run that did not finish")
        os.ftruncate(self.fd, 0)

    def commit(self) -> None:
        """Make it durable and give it its final name."""
        if not self._begun:
            self._begin()
        try:
            move_into_place(self.fd, self.partial, self._path, replace=self._overwrite)
        except FileExistsError:
            raise CommandError(f"output {self._path} appeared while the run went on: it is left as it is") from None

    def leave(self) -> None:
        """It is not complete: it keeps its temporary name, and goes where nothing is in it."""
        if not self.written:
            with contextlib.suppress(OSError):
                if not os.fstat(self.fd).st_size:  # else an earlier run has written it
                    self.partial.unlink()
        elif self.partial.exists():
            say(f"not complete: what finished is in {self.partial}")

    def close(self) -> None:
        """Let go of the file and its lock."""
        _open_targets.discard(self)
        with contextlib.suppress(OSError):
            fcntl.flock(self.fd, fcntl.LOCK_UN)  # also for a child that was forked and has not got to disown() yet
        os.close(self.fd)

    def disown(self) -> None:
        """Let go of the file in a forked child, whose parent keeps the lock."""
        _open_targets.discard(self)
        with contextlib.suppress(OSError):
            os.close(self.fd)

    def put(self, data: memoryview) -> int:
        """Write some of the data and say how much."""
        if not self._begun:
            self._begin()
        return os.write(self.fd, data)

    def give_up(self) -> None:
        """A file never keeps its writer waiting for long."""


class StreamTarget:
    """Standard output or a device: written to as it is.

    Args:
        fd: Where to write; closed at the end.
        name: For messages.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.written = False
        self._given_up = False

    def commit(self) -> None:
        """Everything is out already."""

    def leave(self) -> None:
        """What was written is out."""

    def put(self, data: memoryview) -> int:
        """Write some of the data and say how much; all of it counts as written once nobody is to wait any more."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while not poll.poll(100):
            if self._given_up:
                return len(data)
        try:
            return os.write(self.fd, data[: select.PIPE_BUF])  # so much goes in at once where poll says so
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise OutputClosedError from None

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)

    def give_up(self) -> None:
        """Wait no longer for a reader who does not read."""
        self._given_up = True


Target = FileTarget | StreamTarget

_open_targets: Final[weakref.WeakSet[FileTarget]] = weakref.WeakSet()


def _disown_all() -> None:
    for target in list(_open_targets):
        target.disown()


os.register_at_fork(after_in_child=_disown_all)


def open_target(
    output: str,
    *,
    stdout: int | None,
    overwrite: bool,
    not_this: os.stat_result,
    ours: Callable[[Path], bool] = lambda _: False,
) -> Target:
    """Open the output, or find out that it cannot be, before the first item.

    Args:
        output: A file.
        stdout: What `own_stdout` gave, where the output is that.
        overwrite: Whether an existing file may be replaced.
        not_this: The input's status.
        ours: Whether an existing file is what the run has written before, and may be replaced too.

    Raises:
        CommandError: The output exists, is the input, a symlink, a folder, or cannot be made.
    """
    if stdout is not None:
        fd = stdout
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and os.path.samestat(status, not_this):
            raise CommandError("standard output is the input itself: give the output another name")
        return StreamTarget(fd, "standard output")
    path = Path(output)
    if not path.name:
        raise CommandError(f"output {output!r} is a folder: name a file in it")
    try:
        is_device = stat.S_ISCHR(path.lstat().st_mode)
    except (OSError, ValueError):
        is_device = False
    if is_device:  # /dev/null: never to be replaced by a file
        try:
            return StreamTarget(os.open(path, os.O_WRONLY | os.O_CLOEXEC), output)
        except OSError as exc:
            raise _unwritable(output, exc) from exc
    if not path.parent.is_dir():
        raise CommandError(f"output folder {str(path.parent)!r} does not exist: make it first")
    return FileTarget(path, overwrite=overwrite, not_this=not_this, ours=ours)


def own_stdout() -> int:
    """Take standard output for the results alone: what else is printed there goes to stderr from now on.

    Raises:
        CommandError: It is closed.
    """
    try:
        fd = os.dup(1)
    except OSError as exc:
        raise CommandError("standard output is closed: name a file with -o") from exc
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # a closed stderr
        os.dup2(2, 1)
    return fd


def _unwritable(name: str, exc: OSError) -> CommandError:
    code = DISK_FAILED if exc.errno in _DISK_ERRORS else BAD_USAGE
    return CommandError(f"output {name} cannot be written: {exc.strerror}", code)
