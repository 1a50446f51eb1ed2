"""The journal's file: locked by one process, repaired when opened, and extended group by group."""

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
except ImportError:  # Windows, where the rest of flowrt works without it
    fcntl = None  # type: ignore[assignment]

__all__ = ["JournalFile"]

_RESERVE_BYTES: Final = 1 << 20  # free space required before the first item
_READ_BYTES: Final = 1 << 15  # lines are restored one after another: a call of the system for each would cost more
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
    """Journal file that one process extends.

    Args:
        path: The file; created with mode 0600 if missing.
        disk: The operating system's calls.

    Attributes:
        torn_bytes: Size of the torn tail that was cut off, in bytes.
        end: Offset of the next group; everything before it is on the disk once `ready` has returned.

    Raises:
        JournalInUseError: Another process, or another batch of this one, has the file open.
        JournalDiskError: The disk is read-only, or failed.
        ValueError: The path cannot be that of a journal.
    """

    def __init__(self, path: Path, disk: Disk) -> None:
        self.torn_bytes = 0
        self.end = 0
        self._path = path
        self._disk = disk
        self._failed = False
        self._block = 0, b""  # the last text that was read to restore an item, and its offset
        self._fd = self._open()
        try:
            self._claim()
        except BaseException:
            self.close()
            raise

    def _open(self) -> int:
        if fcntl is None:
            raise ValueError("a journal needs POSIX file locks, which this system lacks: pass journal=None")
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
        try:  # a standard stream is closed: take another descriptor, or output to that stream would end up in here
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STANDARD + 1)
        finally:
            os.close(fd)

    def _claim(self) -> None:
        """Lock the file that has the name now: the previous holder of the lock may have moved the file."""
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
            table: Receives the place of every item's line.

        Returns:
            The header, or None for a new journal, whose header must be written next.

        Raises:
            JournalDamagedError: The file is damaged before its end.
            JournalMismatchError: The file has a format that this version does not read.
            JournalDiskError: The file cannot be read or written.
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
        """Sync the existing content and reserve space for more, before the first item.

        Args:
            header: The header of a new journal; None if the file has one.

        Raises:
            JournalDiskError: The disk is full, read-only, or failed.
        """
        try:
            with contextlib.suppress(PermissionError):  # another user's file that this one may write
                os.fchmod(self._fd, 0o600)
            if header is not None:
                self._write(encode_header(header))
            self._disk.sync(self._fd)  # an earlier process may have died between its write and its sync
            self._write(encode_marker(self.end, 0))  # proves to a later reader that everything before was synced
            self._disk.sync(self._fd)
            self._disk.sync_folder(self._path.parent)
            self._disk.reserve(self._fd, self.end, _RESERVE_BYTES)
            self._disk.truncate(self._fd, self.end)
        except OSError as exc:
            raise self._disk_failed("writing", exc) from exc

    def extend(self, lines: Sequence[bytes]) -> None:
        """Append a group of lines and return once they are on the disk.

        Args:
            lines: Lines of items; if empty, only the group's marker is written.

        Raises:
            JournalDiskError: The lines may not be on the disk, and nothing more will be written.
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
            # After a failed sync the content of the disk is unknown, and a second sync might report success all the
            # same. Cut the group off, best effort, so that a later run does not restore items that were never
            # reported as durable.
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
        """Check that the file still has a name and its size: records behind a hole would be lost silently."""
        status = os.fstat(self._fd)
        if not status.st_nlink:
            raise OSError(errno.ENOENT, "it was removed while the run went on")
        if status.st_size != self.end:
            raise OSError(errno.EIO, f"another program changed its size, from {self.end} to {status.st_size}")

    def line_at(self, offset: int) -> bytes:
        """Return the body of the line at an offset: the text after its checksum.

        Raises:
            JournalDamagedError: The line has changed since the file was opened.
            JournalDiskError: The line cannot be read.
        """
        start, block = self._block
        stop = block.find(b"\n", offset - start) if start <= offset < start + len(block) else -1
        if stop < 0:
            start, block, stop = self._read_block(offset)
        body = body_of(block[offset - start : stop + 1])
        if body is None:
            raise JournalDamagedError(
                f"journal {self._path} was damaged at offset {offset} since it was opened: "
                "is something else writing to it?",
                offset,
            )
        return body

    def _read_block(self, offset: int) -> tuple[int, bytes, int]:
        """Read from a line's offset on, to its end at least; return the offset, the text and the line's end in it."""
        size = _READ_BYTES
        try:
            block = os.pread(self._fd, size, offset)
            while (stop := block.find(b"\n")) < 0 and len(block) == size:
                size *= 8
                block = os.pread(self._fd, size, offset)
        except OSError as exc:
            raise self._disk_failed("reading", exc) from exc
        self._block = offset, block if len(block) <= _READ_BYTES else b""
        return offset, block, stop

    def close(self) -> None:
        """Close the file and release its lock; later calls do nothing."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)  # a forked child that has not called disown() yet shares the lock
        self.disown()

    def disown(self) -> None:
        """Close the file in a forked child, whose parent keeps the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _disk_failed(self, what: str, exc: OSError) -> JournalDiskError:
        return self._refusal(f"{what} it failed: {exc.strerror or exc}")

    def _refusal(self, why: str) -> JournalDiskError:
        return JournalDiskError(
            f"journal {self._path}: {why}; what was finished before is kept: mend the disk and resume"
        )
