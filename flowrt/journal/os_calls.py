"""System calls of a journal, in one class, so that tests can make them fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:  # Windows, where opening a journal is refused
    fcntl = None  # type: ignore[assignment]

__all__ = ["Disk"]

_CANNOT_RESERVE: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV)


class Disk:
    """The operating system's calls; each may raise OSError."""

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        """Write some of the data at an offset and return the number of bytes written."""
        return os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Block until everything written so far is on the disk."""
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, whose fsync leaves data in the drive's cache
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        """Cut the file to a size."""
        os.ftruncate(fd, size_bytes)

    def reserve(self, fd: int, offset: int, size_bytes: int) -> None:
        """Check for free space by allocating from an offset on; the file may be longer afterwards."""
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(fd, offset, size_bytes)
        except OSError as exc:
            if exc.errno not in _CANNOT_RESERVE:
                raise

    def sync_folder(self, folder: Path) -> None:
        """Block until the folder's list of names is on the disk."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
