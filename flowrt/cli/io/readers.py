"""Opening an input, and reading JSON lines: each line is an item, a bad one is a failed item that names its line.

Outcomes of a line, decided once and documented: blank lines are skipped; a BOM at the start and CRLF are fine; of
duplicate keys the last wins and a number too large for a float is infinite, both as `json` has it; NaN, Infinity,
nesting beyond the interpreter's recursion limit, an integer of more digits than Python converts (4,300), bytes that are
not UTF-8, a line over 16 MiB and anything else that is not JSON are failed items.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from flowrt.cli.exit_codes import BAD_USAGE, UNREADABLE_INPUT, CommandError
from flowrt.cli.io.csv_reader import csv_chunks
from flowrt.cli.io.line_reader import LINE_LIMIT_BYTES, BlockReader, Line, LongLine, split_lines
from flowrt.cli.io.prefetch import Prefetcher, prefetch
from flowrt.model import Rejected

__all__ = ["FORMATS", "Format", "Input", "jsonl_chunks", "open_input"]

Format = Literal["jsonl", "csv", "parquet"]
FORMATS: Final[tuple[Format, ...]] = ("jsonl", "csv", "parquet")

_EXTENSIONS: Final[dict[str, Format]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_COUNTED_BYTES: Final = {"jsonl": 256 * 1024 * 1024, "csv": 32 * 1024 * 1024}  # a quarter of a second each
_SHOWN_CHARS: Final = 200
_FOREIGN_MAGIC: Final = (
    (codecs.BOM_UTF16_LE, "UTF-16, not UTF-8: iconv -f UTF-16 -t UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16, not UTF-8: iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b", "compressed with gzip: pipe it through gunzip -c and read from -"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: pipe it through zstd -dc and read from -"),
    (b"PAR1", "a Parquet file: pass --input-format parquet"),
)


@dataclass(frozen=True, slots=True)
class Input:
    """An input that has been opened.

    Attributes:
        feed: Its items.
        file: Its status, to tell whether another name means the same file.
        fd: The file itself, open until `close`.
        format: How it is read.
        rereadable: It is a file, not a pipe, so reading to its end comes to an end.
        close: Releases the file, once the feed has been closed.
        start: Where in the file it begins: standard input may stand anywhere.
    """

    feed: Prefetcher
    file: os.stat_result
    fd: int
    format: Format
    rereadable: bool
    close: Callable[[], None]
    start: int = 0


def open_input(path: str, chosen: Format | None = None) -> Input:
    """Open an input and find out as much about it as can be known before the first item.

    Args:
        path: A file, or `-` for standard input.
        chosen: Its format; by default what its extension says, and JSON lines for `-`.

    Raises:
        CommandError: It does not exist, is a folder, cannot be read, or its format is not known.
    """
    fd = _open(path)
    name = "standard input" if path == "-" else path
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise CommandError(f"{name} is a folder: name a file in it")
        form = chosen or _format_of(path)
        regular = stat.S_ISREG(status.st_mode)
        if form == "parquet":
            from flowrt.cli.io.parquet_reader import parquet_chunks  # noqa: PLC0415  # an extra, and slow to import

            if not regular:
                raise CommandError(f"Parquet is read from its end, which {name} does not have: name a file")
            chunks, expected, release = parquet_chunks(fd, name)
            return Input(prefetch(chunks, lambda: None, expected), status, fd, form, regular, release)
        counted: int | None = None
        start = os.lseek(fd, 0, os.SEEK_CUR) if regular else 0
        if regular and status.st_size <= _COUNTED_BYTES[form]:
            counted = _count(fd, name, form)
            os.lseek(fd, start, os.SEEK_SET)
        blocks = BlockReader(fd, name)
        feed = prefetch(_chunks(blocks, name, form), blocks.stop, counted)
        return Input(feed, status, fd, form, regular, blocks.close, start)
    except BaseException:
        if path != "-":
            os.close(fd)
        raise


def _format_of(path: str) -> Format:
    if path == "-":
        return "jsonl"
    extension = Path(path).suffix.lower()
    if extension not in _EXTENSIONS:
        known = ", ".join(_EXTENSIONS)
        raise CommandError(
            f"cannot tell the format of {path!r} by its extension ({known}): pass --input-format jsonl, csv or parquet"
        )
    return _EXTENSIONS[extension]


def _open(path: str) -> int:
    try:
        if path == "-":
            os.fstat(0)
            return 0
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:
        if path == "-":
            raise CommandError("standard input is closed: name a file, or pipe something in") from exc
        if isinstance(exc, ValueError) or exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise CommandError(f"input {path!r} does not exist", BAD_USAGE) from exc
        raise CommandError(f"input {path!r} cannot be read: {exc.strerror}", UNREADABLE_INPUT) from exc


def _count(fd: int, name: str, form: Format) -> int | None:
    """How many items a file holds, by reading it once; None where only a real reading can say what is wrong."""
    try:
        blocks = BlockReader(fd, name)
        if form == "csv":
            return sum(len(chunk) for chunk in csv_chunks(split_lines(blocks), name))
        lines = (line for part in split_lines(_without_bom(blocks)) for line in part)
        return sum(1 for line in lines if isinstance(line, LongLine) or line.strip())
    except CommandError:
        return None


def _chunks(blocks: BlockReader, name: str, form: Format) -> Iterator[list[Any]]:
    lines = split_lines(_without_bom(_checked_encoding(blocks, name)))
    return csv_chunks(lines, name) if form == "csv" else jsonl_chunks(lines)


def _checked_encoding(blocks: BlockReader, name: str) -> Iterator[bytes]:
    """The blocks, unless the first shows that this is no text in UTF-8 at all."""
    first = True
    for block in blocks:
        if first:
            first = False
            for magic, what in _FOREIGN_MAGIC:
                if block.startswith(magic):
                    raise CommandError(f"{name} is {what}", UNREADABLE_INPUT)
        yield block


def _without_bom(blocks: Iterator[bytes] | BlockReader) -> Iterator[bytes]:
    first = True
    for block in blocks:
        yield block.removeprefix(codecs.BOM_UTF8) if first else block
        first = False


def jsonl_chunks(lines: Iterator[list[Line]]) -> Iterator[list[Any]]:
    """The items of JSON lines.

    Args:
        lines: Lists of lines.
    """
    number = 0
    for part in lines:
        chunk = []
        for line in part:
            number += 1
            if isinstance(line, LongLine) or line.strip():
                chunk.append(_parse(line, number))
        if chunk:
            yield chunk


def _parse(line: Line, number: int) -> Any:
    if isinstance(line, LongLine):
        error = f"line {number}: {line.size_bytes:,} bytes are more than the {LINE_LIMIT_BYTES:,} that a line may have"
        return Rejected(error, "LineTooLong", _shown(line.head))
    try:
        return _decode(line.decode("utf-8"))
    except UnicodeDecodeError as exc:
        error = f"not UTF-8: byte 0x{line[exc.start]:02x} at column {exc.start + 1} ({exc.reason})"
        error_type = "UnicodeDecodeError"
    except json.JSONDecodeError as exc:
        error = f"not JSON: {exc.msg} at column {exc.colno} (each line must hold one JSON value)"
        error_type = "JSONDecodeError"
    except RecursionError:
        error, error_type = "nested too deep to be read", "RecursionError"
    except ValueError as exc:  # NaN, or an integer of too many digits
        error, error_type = f"not a number that can be read: {exc}", "ValueError"
    return Rejected(f"line {number}: {error}", error_type, _shown(line))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _shown(line: bytes) -> str:
    """As much of a bad line as there is to show."""
    return line[:_SHOWN_CHARS].decode("utf-8", "replace")
