"""Reading a journal from its start, and telling a torn tail from a damaged middle.

Reading stops at the first line that is not what was written, at offset X. It lies in the group whose line told of E as
its end. The journal is *damaged* where something shows that the bytes at X had been written and synced:

1. a whole line behind X begins a group: it was written only after everything before it was on the disk; or
2. X is before E and the file goes on behind E by more than a line that begins a group: so does that; or
3. whole records follow X, and between X and the first of them no 16 bytes in a row are zero. Text has no zero bytes:
   where there are some, pages of the last group never reached the disk, which may happen where power fails.

Everything else is a *torn tail*: what was being written when the process or the machine died. Nobody has seen the
results in it, as its sync had not returned, so it is cut off and its items run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from flowrt.errors import JournalDamagedError, JournalMismatchError
from flowrt.journal.format import FORMAT, MAGIC, MARKER_BYTES, STATUS_CODES, Header, body_of, decode_header

__all__ = ["Line", "Scan"]

_HOLE: Final = bytes(16)
_HEADER_BYTES: Final = 1 << 20


Line = tuple[int, int, int, bytes]
"""A finished item's line: where it begins, the item's index, its status' code, what stands behind the checksum."""


class Scan:
    """Reads a journal once, from the start.

    Args:
        file: At its start, with a buffer.
        size_bytes: Its size; what is appended from now on is not read.
        name: For messages.
        skip_damaged: Go on behind damage with the next whole line.

    Attributes:
        header: The journal's header; None where not even that was written whole, and so nothing else.
        end: Where the last whole line ends, once everything was read.
        torn_bytes: How long the torn tail is.
        damaged_bytes: How much was skipped.
        groups: How many groups hold records.

    Raises:
        JournalDamagedError: The file is no journal, or its first line is damaged.
        JournalMismatchError: It is of a format that this version does not read.
    """

    def __init__(self, file: BinaryIO, size_bytes: int, name: str, *, skip_damaged: bool = False) -> None:
        self.end = 0
        self.torn_bytes = 0
        self.damaged_bytes = 0
        self.groups = 0
        self.header: Header | None = None
        self._file = file
        self._size = size_bytes
        self._name = name
        self._skip_damaged = skip_damaged
        self._read_header()

    def _read_header(self) -> None:
        line = self._file.readline(_HEADER_BYTES)
        known = decode_header(line)
        if known is not None:
            number, self.header = known
            if self.header is None:
                raise JournalMismatchError(
                    f"journal {self._name} has format {number} and this version of flowrt reads {FORMAT}: "
                    "resume with the version that wrote it, or name another journal"
                )
            self.end = len(line)
            return
        begun = line[: len(MAGIC)] == MAGIC[: len(line)] and len(line) == self._size and line[-1:] != b"\n"
        if begun or (self._size <= _HEADER_BYTES and not line.strip(b"\0")):
            self.torn_bytes = self._size
            return
        if line.startswith(MAGIC):
            raise JournalDamagedError(f"journal {self._name} is damaged at offset 0, in its first line: {_FIX}", 0)
        raise JournalDamagedError(f"{self._name} is not a journal of flowrt: name another file", 0)

    def __iter__(self) -> Iterator[Line]:
        """Every item's line, in the order in which they were written.

        Raises:
            JournalDamagedError: Damage that is no torn tail.
        """
        if self.header is None:
            return
        crc_and_rest, codes = body_of, STATUS_CODES
        offset = group_end = self.end
        size = self._size
        for line in iter(self._file.readline, b""):
            after = offset + len(line)
            body = crc_and_rest(line) if after <= size else None
            if body is None:
                if self._torn(offset, group_end):
                    return
                self.damaged_bytes += len(line)
            elif body.startswith(b"@"):
                _, at, length = body.split()
                if int(at) != offset:
                    self._damaged(offset, "something before it was taken out or put in")
                group_end = after + int(length)
                self.groups += length != b"0"
            else:
                index, status, _ = body.split(b" ", 2)
                yield offset, int(index), codes[status], body
            self.end = offset = after
            if offset >= size:
                return

    def _torn(self, offset: int, group_end: int) -> bool:
        """Whether the line at the offset begins the torn tail; else it is damage.

        Raises:
            JournalDamagedError: It is damage, and not to be skipped.
        """
        resume_at = self._file.tell()
        reason = self._proof(offset, group_end)
        self._file.seek(resume_at)
        if reason is None:
            self.torn_bytes = self._size - offset
            return True
        self._damaged(offset, reason)
        return False

    def _proof(self, offset: int, group_end: int) -> str | None:
        """What shows that the bytes at the offset had been synced, or None."""
        if offset < group_end and self._size > group_end + MARKER_BYTES:
            return "a later group was begun"
        self._file.seek(offset)
        gap_has_hole, record_follows = False, False
        at = offset
        while at < self._size and (line := self._file.readline()):
            at += len(line)
            body = body_of(line) if at <= self._size else None
            if body is None:
                gap_has_hole = gap_has_hole or (not record_follows and _HOLE in line)
            elif body.startswith(b"@"):
                return "a later group follows"
            else:
                record_follows = True
        return "whole records follow" if record_follows and not gap_has_hole else None

    def _damaged(self, offset: int, reason: str) -> None:
        if not self._skip_damaged:
            raise JournalDamagedError(
                f"journal {self._name} is damaged at offset {offset} ({reason}): {_FIX}",
                offset,
            )


_FIX: Final = "`flowrt journal salvage FILE NEW` makes a new journal of what is whole, to resume from"
