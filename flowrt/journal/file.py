"""The journal's file: opened for one process alone, found whole or made whole, and extended group by group."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flowrt.errors import JournalDamagedError, JournalDiskError, JournalInUseError
from flowrt.journal.format import Header, body_of, encode_header, encode_marker
from flowrt.journal.index import Table
from flowrt.journal.os_calls import Disk
from flowrt.journal.recovery import Scan

try:
    import fcntl
except ImportError:  # Windows: the rest of flowrt needs none of it
    fcntl = None  # type: ignore[assignment]

__all__ = ["JournalFile"]

_ROOM_BYTES: Final = 1 << 20  # so much must be free before the first item
_READ_BYTES: Final = 4096
_STANDARD: Final = 2  # the last descriptor of the standard streams
_USAGE: Final = {
    errno.ENOENT: "its folder does not exist: make it first",
    errno.ENOTDIR: "its folder is a file: name another",
    errno.EISDIR: "it is a folder: name a file in it",
    errno.EACCES: "permission denied: name a file that this user may write",
    errno.EPERM: "permission denied: name a file that this user may write",
    errno.ELOOP: "it is a symlink that leads nowhere: name another file",
    errno.ENAMETOOLONG: "its name is too long",
}


class JournalFile:
    """A file that one process extends.

    Args:
        path: Made with mode 0600 where it does not exist.
        disk: The system's calls.

    Attributes:
        torn_bytes: How much of a torn tail was cut off.
        end: Where the next group begins; everything before it is on the disk once `open` has returned.

    Raises:
        JournalInUseError: Another process, or another batch of this one, has it open.
        JournalDiskError: The disk is read-only, or failed.
        ValueError: It cannot be a journal's place.
    """

    def __init__(self, path: Path, disk: Disk) -> None:
        self.torn_bytes = 0
        self.end = 0
        self._path = path
        self._disk = disk
        self._failed = False
        self._fd = self._open()
        try:
            self._claim()
        except BaseException:
            self.close()
            raise

    def _open(self) -> int:
        if fcntl is None:
            raise ValueError("a journal needs the file locks of POSIX, which this system has not: pass journal=None")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            fd = os.open(self._path, flags, 0o600)
        except OSError as exc:
            if exc.errno in _USAGE:
                raise ValueError(f"journal {str(self._path)!r} cannot be opened: {_USAGE[exc.errno]}") from exc
            raise self._disk_failed("opening", exc) from exc
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ValueError(f"journal {str(self._path)!r} is no regular file: name another")
        if fd > _STANDARD:
            return fd
        try:  # a standard stream is closed, and what anybody writes to it must not end up in here
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STANDARD + 1)
        finally:
            os.close(fd)

    def _claim(self) -> None:
        """Lock the file that has the name now: whoever held the lock may have moved it meanwhile."""
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JournalInUseError(
                    f"journal {self._path} is in use by another run: wait for it to end, or name another journal"
                ) from None
            except OSError as exc:
                raise self._disk_failed("locking", exc) from exc
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._fd), self._path.stat()):
                    break
            os.close(self._fd)
            self._fd = -1
            self._fd = self._open()

    def read(self, table: Table) -> Header | None:
        """Read everything and cut off a torn tail.

        Args:
            table: Is told of every item's line.

        Returns:
            The header, or None for a new journal, whose header is to be written next.

        Raises:
            JournalDamagedError: There is damage that is no torn tail.
            JournalMismatchError: It has a format that this version does not read.
            JournalDiskError: It cannot be read or written.
        """
        try:
            with open(self._fd, "rb", buffering=1 << 20, closefd=False) as file:
                scan = Scan(file, os.fstat(self._fd).st_size, str(self._path))
                for offset, index, code, _ in scan:
                    table.put(index, offset, code)
            self.end, self.torn_bytes = scan.end, scan.torn_bytes
            if self.torn_bytes:
                self._disk.truncate(self._fd, self.end)
        except OSError as exc:
            raise self._disk_failed("reading", exc) from exc
        return scan.header

    def ready(self, header: Header | None) -> None:
        """Make sure that what is there is on the disk and that there is room for more, before the first item.

        Args:
            header: Of a new journal; None where the file has one.

        Raises:
            JournalDiskError: The disk is full, read-only, or failed.
        """
        try:
            with contextlib.suppress(PermissionError):  # somebody else's file that we may write
                os.fchmod(self._fd, 0o600)
            if header is not None:
                self._write(encode_header(header))
            self._disk.sync(self._fd)  # also what an earlier process wrote and did not live to sync
            self._write(encode_marker(self.end, 0))  # says so to whoever reads it later
            self._disk.sync(self._fd)
            self._disk.sync_folder(self._path.parent)
            self._disk.reserve(self._fd, self.end, _ROOM_BYTES)
            self._disk.truncate(self._fd, self.end)
        except OSError as exc:
            raise self._disk_failed("writing", exc) from exc

    def extend(self, lines: Sequence[bytes]) -> None:
        """Append a group of lines and return when they are on the disk.

        Args:
            lines: Of items; none of them for the line alone that begins a group.

        Raises:
            JournalDiskError: They may not be on the disk, and nothing more will be written.
        """
        if self._failed:
            raise self._refusal("it failed before")
        start = self.end
        records = b"".join(lines)
        try:
            self._check_ours()
            self._write(encode_marker(start, len(records)) + records)
            self._disk.sync(self._fd)
        except OSError as exc:
            # Once a sync has failed nobody knows what is on the disk: asking again might be told that all is well. The
            # group is taken out, best effort, so that whoever resumes does not read what nobody was told of.
            self._failed = True
            with contextlib.suppress(OSError):
                self._disk.truncate(self._fd, start)
            raise self._disk_failed("writing", exc) from exc

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = self._disk.write(self._fd, left, self.end)
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.end += written
            left = left[written:]

    def _check_ours(self) -> None:
        """Records in a file without a name, or behind a hole, would be lost without anybody knowing."""
        status = os.fstat(self._fd)
        if not status.st_nlink:
            raise OSError(errno.ENOENT, "it was removed while the run went on")
        if status.st_size != self.end:
            raise OSError(errno.EIO, f"its size was changed by somebody else, from {self.end} to {status.st_size}")

    def line_at(self, offset: int) -> bytes:
        """What stands behind the checksum of the line that begins at an offset.

        Raises:
            JournalDamagedError: It is not what was read there before.
            JournalDiskError: It cannot be read.
        """
        size = _READ_BYTES
        try:
            line = os.pread(self._fd, size, offset)
            while (stop := line.find(b"\n")) < 0 and len(line) == size:
                size *= 8
                line = os.pread(self._fd, size, offset)
        except OSError as exc:
            raise self._disk_failed("reading", exc) from exc
        body = body_of(line[: stop + 1])
        if body is None:
            raise JournalDamagedError(
                f"journal {self._path} was damaged at offset {offset} since it was opened: "
                "is something else writing to it?",
                offset,
            )
        return body

    def close(self) -> None:
        """Let go of the file and its lock; later calls do nothing."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)  # also for a child that was forked and has not got to disown() yet
        self.disown()

    def disown(self) -> None:
        """Let go of the file in a forked child, whose parent keeps the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _disk_failed(self, what: str, exc: OSError) -> JournalDiskError:
        return self._refusal(f"{what} it failed: {exc.strerror or exc}")

    def _refusal(self, why: str) -> JournalDiskError:
        return JournalDiskError(
            f"journal {self._path}: {why}; what was finished before is kept: mend the disk and resume"
        )
