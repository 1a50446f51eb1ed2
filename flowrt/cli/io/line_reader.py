"""Line reader: splits a byte stream into lines with a bound on the length of one."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterable, Iterator
from typing import Final

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError

__all__ = ["BlockReader", "Line", "LongLine", "split_lines"]

_BLOCK_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = 200


class LongLine:
    """Line over the limit, of which only the beginning is kept.

    Attributes:
        head: The first bytes.
        size_bytes: Length of the whole line.
    """

    __slots__ = ("_limit_bytes", "head", "size_bytes")

    def __init__(self, head: bytes, size_bytes: int, limit_bytes: int) -> None:
        self.head = head
        self.size_bytes = size_bytes
        self._limit_bytes = limit_bytes

    def describe(self) -> str:
        """Describe the error, with the option that raises the limit."""
        return (
            f"{self.size_bytes:,} bytes are more than the {self._limit_bytes:,} that a line may have: "
            "raise --max-line-bytes"
        )


Line = bytes | LongLine


class BlockReader:
    """Iterator over the blocks of a file. One thread iterates, any thread may stop it.

    Args:
        fd: File descriptor; closed by `close`.
        name: Name for messages.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._stopped = False
        self._waits = not stat.S_ISREG(os.fstat(fd).st_mode)
        self._wake_r, self._wake_w = os.pipe() if self._waits else (-1, -1)

    def __iter__(self) -> Iterator[bytes]:
        while not self._stopped:
            if self._waits and not self._readable():
                return
            try:
                block = os.read(self._fd, _BLOCK_BYTES)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise CommandError(f"{self._name} cannot be read: {exc.strerror}", UNREADABLE_INPUT) from exc
            if not block:
                return
            yield block

    def _readable(self) -> bool:
        """Wait until a pipe or terminal has data. Return False after `stop`."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        return all(fd != self._wake_r for fd, _ in poll.poll())

    def stop(self) -> None:
        """End the iteration, even while it waits for input."""
        self._stopped = True
        if self._waits:
            os.write(self._wake_w, b".")

    def close(self) -> None:
        """Close the file. The iteration must have ended."""
        for fd in {self._fd, self._wake_r, self._wake_w} - {-1, 0}:  # 0 is standard input, which stays open
            os.close(fd)
        self._fd = self._wake_r = self._wake_w = -1
        self._waits = False


def split_lines(blocks: Iterable[bytes], limit_bytes: int) -> Iterator[list[Line]]:
    """Yield the lines that each block completes, without line breaks.

    Args:
        blocks: The stream.
        limit_bytes: Longest line, in bytes; a longer line becomes a `LongLine`.
    """
    rest = bytearray()  # the incomplete last line
    size = 0
    for block in blocks:
        pieces = block.split(b"\n")
        lines: list[Line] = []
        may_exceed = len(block) > limit_bytes
        for piece in pieces[:-1]:
            if not size:
                too_long = may_exceed and len(piece) > limit_bytes
                lines.append(LongLine(piece[:_HEAD_BYTES], len(piece), limit_bytes) if too_long else piece)
                continue
            size += len(piece)
            lines.append(
                LongLine(bytes(rest[:_HEAD_BYTES]), size, limit_bytes) if size > limit_bytes else bytes(rest + piece)
            )
            rest, size = bytearray(), 0
        size += len(pieces[-1])
        if size <= limit_bytes:
            rest += pieces[-1]
        elif len(rest) > _HEAD_BYTES:
            rest = rest[:_HEAD_BYTES]
        if lines:
            yield lines
    if size:
        yield [LongLine(bytes(rest[:_HEAD_BYTES]), size, limit_bytes) if size > limit_bytes else bytes(rest)]
