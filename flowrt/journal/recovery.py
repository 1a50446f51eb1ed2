"""Scan of a journal from its start, which distinguishes a torn tail from a damaged middle.

The scan stops at the first invalid line, at offset X. X lies in a group whose marker announced its end E. The journal
is *damaged* if one of three things proves that the bytes at X had been written and synced:

1. a valid marker follows X, because a marker is written only after everything before it is on the disk; or
2. X is before E and the file goes on after E by more than a marker, which proves that a later group was begun; or
3. valid records follow X, and between X and the first of them no 16 bytes in a row are zero. Text has no zero bytes;
   zeros mean that pages of the last group never reached the disk, as may happen in a power failure.

Everything else is a *torn tail*: the group that was being written when the process or the machine died. Its sync had
not returned, so its results were never reported. The tail is cut off, and its items run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from flowrt.errors import JournalDamagedError, JournalMismatchError
from flowrt.journal.format import FORMAT, MAGIC, MARKER_BYTES, STATUS_CODES, Header, body_of, decode_header

__all__ = ["FOREIGN", "Line", "Scan", "damaged"]

_HOLE: Final = bytes(16)
_HEADER_BYTES: Final = 1 << 20


Line = tuple[int, int, int, bytes]
"""A finished item's line: its offset, the item's index, the code of its status, and the line's body."""


class Scan:
    """One pass over a journal.

    Args:
        file: A buffered file, positioned at its start.
        size_bytes: The file's size; later appends are not read.
        name: The file's name, for messages.
        skip_damaged: True to go on with the next valid line after damage.

    Attributes:
        header: The journal's header; None if it is incomplete, and then the journal is empty.
        end: End of the last valid line, in bytes, after the pass.
        torn_bytes: Size of the torn tail.
        damaged_bytes: Size of the skipped lines.
        groups: Number of groups with records.

    Raises:
        JournalDamagedError: The file is not a journal, or its first line is damaged.
        JournalMismatchError: The journal has a format that this version does not read.
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
        """Iterate over the items' lines in the order of writing.

        Raises:
            JournalDamagedError: The journal is damaged before its end.
        """
        if self.header is None:
            return
        checked_body, codes = body_of, STATUS_CODES
        offset = group_end = self.end
        size = self._size
        for line in iter(self._file.readline, b""):
            after = offset + len(line)
            body = checked_body(line) if after <= size else None
            if body is None:
                if self._torn(offset, group_end):
                    return
                self.damaged_bytes += len(line)
            else:
                try:
                    if body.startswith(b"@"):
                        _, at, length = body.split()
                        place, group_end = int(at), after + int(length)
                    else:
                        index, status, _, _ = body.split(b" ", 3)
                        place, code = int(index), codes[status]
                except (ValueError, KeyError):
                    place = -1
                if place < 0:
                    self._damaged(offset, FOREIGN)
                    self.damaged_bytes += len(line)
                elif not body.startswith(b"@"):
                    yield offset, place, code, body
                else:
                    if place != offset:
                        self._damaged(offset, "something before it was taken out or put in")
                    self.groups += length != b"0"
            self.end = offset = after
            if offset >= size:
                return

    def _torn(self, offset: int, group_end: int) -> bool:
        """Return True if the line at the offset begins the torn tail, False if it is damage to skip.

        Raises:
            JournalDamagedError: The line is damage, and `skip_damaged` is false.
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
        """Return the proof that the bytes at the offset had been synced, or None."""
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
            raise damaged(self._name, offset, reason)


def damaged(name: object, offset: int, reason: str) -> JournalDamagedError:
    """Make the error of a damaged line.

    Args:
        name: The journal.
        offset: Start of the line, in bytes.
        reason: Proof of the damage.
    """
    return JournalDamagedError(f"journal {name} is damaged at offset {offset} ({reason}): {_FIX}", offset)


FOREIGN: Final = "its checksum is right, but it is not a line that flowrt writes"
_FIX: Final = "`flowrt journal salvage FILE NEW` copies what is intact into a new journal, to resume from"
