"""What a journal asks of the operating system, in one place, so that tests can make it fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:  # Windows, where a journal is refused when it is opened
    fcntl = None  # type: ignore[assignment]

__all__ = ["Disk"]

_CANNOT_RESERVE: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV)


class Disk:
    """The calls as the system has them; each may raise OSError."""

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        """Write some of the data at an offset and say how much."""
        return os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Return when everything written so far is on the disk."""
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: its fsync leaves data in the drive's own cache
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        """Cut the file."""
        os.ftruncate(fd, size_bytes)

    def reserve(self, fd: int, offset: int, size_bytes: int) -> None:
        """Find out that there is room from an offset on; the file may be longer afterwards."""
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(fd, offset, size_bytes)
        except OSError as exc:
            if exc.errno not in _CANNOT_RESERVE:
                raise

    def sync_folder(self, folder: Path) -> None:
        """Return when the folder's list of names is on the disk."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
