"""Files that take their final name only when they are complete."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from flowrt.errors import FlowrtError

try:
    import fcntl
except ImportError:  # Windows, where the rest of flowrt works without it
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "DiskFailedError",
    "FileInUseError",
    "OutputFile",
    "move_into_place",
    "open_locked",
    "open_private",
    "release",
    "write_private",
]


class FileInUseError(FlowrtError):
    """Another run is writing a file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"another run is writing {path}: wait until it ends, or name another output")


def open_private(path: str | os.PathLike[str], *, new: bool = False) -> int:
    """Open a file for writing with mode 0600, never through a symlink.

    The content of an existing file stays, as the file may belong to another process: truncate it once that is excluded.

    Args:
        path: The file; it is created if it does not exist.
        new: True if an existing file is an error.

    Returns:
        The file descriptor; it is not inherited by child processes.

    Raises:
        OSError: The file cannot be opened, or is a symlink.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags | os.O_EXCL if new else flags, 0o600)


def open_locked(path: Path) -> int:
    """Open a file as `open_private` does, and lock it, so that two runs never write to it at once.

    Args:
        path: The file, which a run may rename when it is complete. Its content stays.

    Returns:
        The file descriptor. `release` gives the lock back; so does the end of the process.

    Raises:
        FileInUseError: Another run has locked the file.
        OSError: The file cannot be opened.
    """
    while True:
        fd = open_private(path)
        try:
            _lock(fd, path)
            if os.path.samestat(os.fstat(fd), path.lstat()):
                return fd
        except FileNotFoundError:
            pass  # like another file of the name: a run has renamed this one since it was opened
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileInUseError(path) from None
    except OSError:
        return  # the file system has no locks


def release(fd: int) -> None:
    """Release the lock of `open_locked`, before the file is closed: a forked child may hold the descriptor, too."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


def move_into_place(fd: int, partial: Path, path: Path, *, replace: bool = True) -> None:
    """Rename a complete file to its final name, which never holds an incomplete file, even after a power failure.

    Args:
        fd: The open file, with nothing left in a buffer.
        partial: The temporary name, in the same folder.
        path: The final name.
        replace: True to replace an existing file.

    Raises:
        FileExistsError: The final name is taken, and `replace` is False.
        OSError: The disk failed.
    """
    os.fsync(fd)
    if not replace and os.path.lexists(path):
        raise FileExistsError(f"{path} exists")
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the new name is an entry of the folder, which has its own blocks on the disk
    finally:
        os.close(folder)


def write_private(path: Path, text: str) -> None:
    """Write a whole file with mode 0600, or leave no trace.

    Args:
        path: The file; an existing one is replaced.
        text: The content.

    Raises:
        OSError: The file cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.urandom(4).hex()}.partial")  # other threads may write the same file
    fd = open_private(partial, new=True)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as opened:
            opened.write(text)
            opened.flush()
            move_into_place(fd, partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


class DiskFailedError(Exception):
    """The disk failed during a write. The incomplete file stays under the temporary name."""


class OutputFile:
    """File that is written line by line as `<output>.partial` beside its final name, locked and with mode 0600.

    Args:
        path: The final name; its folder is created.
        replace: Whether an existing file may be replaced.

    Attributes:
        path: The final name.
        partial: The temporary name.

    Raises:
        FlowrtError: The output exists, is a folder, is being written by another run, or cannot be created.
    """

    def __init__(self, path: Path, *, replace: bool) -> None:
        if path.is_dir():
            raise FlowrtError(f"output {path} is a folder: name a file")
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        if path.exists() and not replace:
            raise FlowrtError(f"output {path} exists: name another file, or remove it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(open_locked(self.partial), "wb")
            self._file.truncate()
        except OSError as exc:
            raise FlowrtError(f"output {path} cannot be written: {exc.strerror}") from exc
        self._failed = False

    def write(self, line: bytes) -> None:
        """Append one line to the buffer.

        Raises:
            DiskFailedError: The disk failed.
        """
        try:
            self._file.write(line)
        except OSError as exc:
            raise self._disk_failed(exc) from exc

    def close(self, *, complete: bool) -> None:
        """Write the buffer to the disk. Later calls do nothing.

        Args:
            complete: Whether the file is complete and takes its final name.

        Raises:
            DiskFailedError: The disk failed.
        """
        if self._file.closed:
            return
        try:
            with self._file:
                self._file.flush()
                if complete:
                    move_into_place(self._file.fileno(), self.partial, self.path)
                else:
                    os.fsync(self._file.fileno())
                    if not os.fstat(self._file.fileno()).st_size:
                        self.partial.unlink()
                release(self._file.fileno())
        except OSError as exc:
            if not self._failed:
                raise self._disk_failed(exc) from exc

    def _disk_failed(self, exc: OSError) -> DiskFailedError:
        self._failed = True
        return DiskFailedError(f"{self.partial} cannot be written: {exc.strerror or exc}")
