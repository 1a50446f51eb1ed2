"""Text of an input as UTF-8 with line feeds: byte order marks, UTF-16, named encodings, carriage returns."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import chain
from typing import Final

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError

__all__ = ["as_utf8", "with_line_feeds"]

_MARKS: Final = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEAD_BYTES: Final = 1024 * 1024  # a first line beyond this ends in a line feed


def as_utf8(blocks: Iterator[bytes], name: str, encoding: str | None) -> Iterator[bytes]:
    """Convert a text to UTF-8 without byte order mark.

    Bytes that are invalid in a single-byte encoding stay as they are, so that only their line fails.

    Args:
        blocks: Blocks of the text.
        name: Name for messages.
        encoding: Encoding, or None for UTF-8, or UTF-16 if the text begins like it.

    Raises:
        CommandError: The text is not valid in its encoding.
    """
    first = next(blocks, b"")
    while any(mark.startswith(first) and mark != first for mark in _MARKS) and (more := next(blocks, b"")):
        first += more
    encoding = encoding or _utf16(first)
    if encoding in (None, "utf-8", "utf-8-sig"):
        yield first.removeprefix(codecs.BOM_UTF8)
        yield from blocks
        return
    yield from _transcoded(first, blocks, name, encoding)


def _transcoded(first: bytes, blocks: Iterator[bytes], name: str, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    begun = False
    try:
        for block in chain([first], blocks, [b""]):
            text = decoder.decode(block, not block)
            if text and not begun:
                text, begun = text.removeprefix("\ufeff"), True
            yield text.encode("utf-8", "surrogateescape")
    except UnicodeError as exc:
        raise CommandError(
            f"{name} is not {encoding}: {exc}; name its encoding with --encoding", UNREADABLE_INPUT
        ) from exc


def _utf16(head: bytes) -> str | None:
    """Recognize UTF-16 by its byte order mark, or by a NUL in every second of the first bytes."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    start = head[: min(len(head) // 2 * 2, 64)]
    even, odd = start[::2], start[1::2]
    if len(start) >= 4:
        if not any(odd) and all(even):
            return "utf-16-le"
        if not any(even) and all(odd):
            return "utf-16-be"
    return None


def with_line_feeds(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Replace carriage returns by line feeds if the text has only carriage returns, as old Macs and Excel write it.

    Args:
        blocks: Blocks of the text.
    """
    head = bytearray()
    for block in blocks:
        head += block
        # a carriage return at the end may be half of CRLF
        if b"\n" in block or b"\r" in head[-len(block) - 1 : -1] or len(head) > _HEAD_BYTES:
            break
    mac = b"\r" in head and b"\n" not in head
    if head:
        yield bytes(head.replace(b"\r", b"\n") if mac else head)
    for block in blocks:
        yield block.replace(b"\r", b"\n") if mac else block
