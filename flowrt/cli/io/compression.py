"""Decompression of an input, recognized by its content: gzip, bzip2, xz and zstd."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, Final

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError
from flowrt.errors import MissingExtraError

__all__ = ["compression_of", "decompressed"]

_MAGIC: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_READ_BYTES: Final = 64 * 1024
_ZSTD_BYTES: Final = 256  # input at once: 4 bytes of it can hold 128 KiB, and the library has no limit of its own


def compression_of(head: bytes) -> str | None:
    """Return the name of the compression that a file begins with, or None.

    Args:
        head: First bytes of the file.
    """
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def decompressed(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Decompress a stream, or pass it through if it is not compressed.

    A file may consist of several compressed streams, as `cat a.gz b.gz` makes.

    Args:
        blocks: Blocks of the file.
        name: Name for messages.

    Raises:
        CommandError: The compressed data is damaged or ends early.
        MissingExtraError: The file is compressed with zstd, and zstandard is not installed.
    """
    head = next(blocks, b"")
    while any(magic.startswith(head) for magic, _ in _MAGIC) and (more := next(blocks, b"")):  # a pipe may be slow
        head += more
    kind = compression_of(head)
    if kind is None:
        if head:
            yield head
        yield from blocks
        return
    raw = _Raw(head, blocks)
    produced = 0
    try:
        for block in _zstd(raw) if kind == "zstd" else _standard(kind, raw):
            produced += len(block)
            yield block
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as exc:
        raise CommandError(
            f"{name} is damaged: its {kind} data cannot be decompressed after {produced:,} bytes: {exc}",
            UNREADABLE_INPUT,
        ) from exc


class _Raw(io.RawIOBase):
    """File object over the blocks of a stream."""

    def __init__(self, head: bytes, blocks: Iterator[bytes]) -> None:
        self._rest = head
        self._blocks = blocks

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes of the current block."""
        block = self._rest or next(self._blocks, b"")
        size = len(block) if size < 0 else size
        self._rest = block[size:]
        return block[:size]


def _standard(kind: str, raw: _Raw) -> Iterator[bytes]:
    source: Any = raw  # read() is all that they call
    opened: Any
    if kind == "gzip":
        opened = gzip.GzipFile(fileobj=source)  # the garbage collector closes it: it owns no file
    else:
        opened = bz2.BZ2File(source) if kind == "bzip2" else lzma.LZMAFile(source)  # noqa: SIM115
    while block := opened.read1(_READ_BYTES):
        yield block


def _zstd(raw: _Raw) -> Iterator[bytes]:
    try:
        import zstandard  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("input compressed with zstd", "zstandard", "files") from None
    frame: Any = None
    while block := raw.read():
        whole = memoryview(block)
        for start in range(0, len(block), _ZSTD_BYTES):
            data = bytes(whole[start : start + _ZSTD_BYTES])
            while data:
                if frame is None:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                try:
                    output = frame.decompress(data)
                except zstandard.ZstdError as exc:
                    raise OSError(str(exc)) from exc
                if output:
                    yield output
                data = b""
                if frame.eof:
                    data, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("the file ends within a frame")
