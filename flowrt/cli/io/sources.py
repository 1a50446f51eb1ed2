"""Sources: one opened input each, as lists of items."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

from flowrt.cli.exit_codes import BAD_USAGE, UNREADABLE_INPUT, CommandError
from flowrt.cli.io.compression import compression_of, decompressed
from flowrt.cli.io.csv_reader import csv_chunks
from flowrt.cli.io.encoding import as_utf8, with_line_feeds
from flowrt.cli.io.formats import check_magic, format_of, is_table, is_url
from flowrt.cli.io.jsonl_reader import jsonl_chunks
from flowrt.cli.io.line_reader import BlockReader, split_lines
from flowrt.cli.io.remote import open_url, url_blocks
from flowrt.cli.options.input import Format, InputOptions
from flowrt.errors import MissingExtraError
from flowrt.journal import digest_of_file

__all__ = ["Source", "open_source", "standard_stream"]

_COUNTED_BYTES: Final = 32 * 1024 * 1024  # a quarter of a second for CSV
_COUNTED_LINES_BYTES: Final = 256 * 1024 * 1024
_STANDARD: Final = re.compile(r"/dev/(?:std(?P<name>in|out|err)|fd/(?P<fd>\d+))|/proc/self/fd/(?P<proc>\d+)")


@dataclass(slots=True)
class Source:
    """An input that has been opened.

    Attributes:
        name: Name for messages.
        format: Its format.
        chunks: Lists of items, to be iterated in one thread.
        close: Closes the file; the iteration must have ended.
        expected: Number of items, if known.
        status: File status of a local file, or None.
        digest: Computes the digest of the content; None for a stream, which can be read only once.
        interrupt: Ends `chunks` from another thread, even while it waits for input.
    """

    name: str
    format: Format
    chunks: Iterator[list[Any]]
    close: Callable[[], None]
    expected: int | None = None
    status: os.stat_result | None = None
    digest: Callable[[], str] | None = None
    interrupt: Callable[[], None] = lambda: None


def standard_stream(path: str) -> int | None:
    """Return the file descriptor that a path such as /dev/stdin or /dev/fd/3 names, or None.

    Args:
        path: The path.
    """
    found = _STANDARD.fullmatch(path)
    if found is None:
        return None
    if found["name"]:
        return {"in": 0, "out": 1, "err": 2}[found["name"]]
    return int(found["fd"] or found["proc"])


def open_source(path: str, options: InputOptions, *, count: bool = True) -> Source:
    """Open an input, and check as much of it as possible before the first item.

    Args:
        path: A file, a folder of Parquet files, a URL, or - for standard input.
        options: Options of the input.
        count: Count the items of a small file by reading it.

    Raises:
        CommandError: The input does not exist, cannot be read, or its format is not known.
        MissingExtraError: The package that reads it is not installed.
    """
    if standard_stream(path) == 0:
        path = "-"
    if is_url(path):
        return _open_remote(path, options)
    fd = _open(path)
    name = "standard input" if path == "-" else path
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            source = _open_folder(path, options)
            os.close(fd)
            return source
        regular = stat.S_ISREG(status.st_mode)
        form = options.input_format or format_of(path, streamed=not regular)
        if is_table(form):
            if not regular:
                raise CommandError(f"{form} is read from its end, which {name} does not have: name a file")
            return _open_table(os.fdopen(os.dup(fd), "rb"), fd, name, form, status)
        return _open_text(fd, name, form, status, options, count=count)
    except BaseException:
        if path != "-":
            os.close(fd)
        raise


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


def _open_folder(path: str, options: InputOptions) -> Source:
    if options.input_format not in (None, "parquet"):
        raise CommandError(f"{path} is a folder: name the files in it, for example {path}/*.{options.input_format}")
    if not any(Path(path).rglob("*.parquet")):
        raise CommandError(
            f"{path} is a folder without Parquet files: name the files in it, for example {path}/*.jsonl"
        )
    from flowrt.cli.io.table_reader import dataset_chunks  # noqa: PLC0415  # an extra, and slow to import

    chunks, expected, release = dataset_chunks(path, path)
    return Source(path, "parquet", chunks, release, expected)


def _open_table(file: IO[bytes], fd: int, name: str, form: Format, status: os.stat_result | None) -> Source:
    from flowrt.cli.io.table_reader import arrow_chunks, parquet_chunks  # noqa: PLC0415  # an extra, and slow to import

    try:
        chunks, expected, release = (parquet_chunks if form == "parquet" else arrow_chunks)(file, name)
    except BaseException:
        file.close()
        raise

    def close() -> None:
        release()
        file.close()
        if fd > 0:  # 0 is standard input, which stays open
            os.close(fd)

    digest = (lambda: digest_of_file(fd)) if fd >= 0 else None
    return Source(name, form, chunks, close, expected, status, digest)


def _open_text(
    fd: int, name: str, form: Format, status: os.stat_result, options: InputOptions, *, count: bool
) -> Source:
    regular = stat.S_ISREG(status.st_mode)
    start = os.lseek(fd, 0, os.SEEK_CUR) if regular else 0
    expected = None
    limit = _COUNTED_LINES_BYTES if form == "jsonl" else _COUNTED_BYTES
    if count and regular and status.st_size <= limit and not compression_of(os.pread(fd, 6, start)):
        expected = _count(fd, name, form, options)
        os.lseek(fd, start, os.SEEK_SET)
    reader = BlockReader(fd, name)
    chunks = _text_chunks(iter(reader), name, form, options)
    digest = (lambda: digest_of_file(fd, start)) if regular else None
    return Source(name, form, chunks, reader.close, expected, status, digest, reader.stop)


def _count(fd: int, name: str, form: Format, options: InputOptions) -> int | None:
    """Count the items of a file by reading it; None if it cannot be read, which the real reading reports."""
    blocks = iter(BlockReader(fd, name))
    try:
        if form == "jsonl" and options.encoding is None and not options.skip_lines:
            return _count_lines(blocks, options.max_line_bytes)
        return sum(len(chunk) for chunk in _text_chunks(blocks, "", form, options))
    except (CommandError, MissingExtraError):
        return None


def _count_lines(blocks: Iterator[bytes], limit_bytes: int) -> int:
    """Count the lines that are not blank, without parsing them."""
    lines = split_lines(with_line_feeds(as_utf8(blocks, "", None)), limit_bytes)
    return sum(1 for part in lines for line in part if not isinstance(line, bytes) or line.strip())


def _text_chunks(blocks: Iterator[bytes], name: str, form: Format, options: InputOptions) -> Iterator[list[Any]]:
    """Yield the items of a text; an empty name prints no warnings."""
    text = with_line_feeds(_checked(as_utf8(decompressed(blocks, name), name, options.encoding), name))
    if form == "json":
        from flowrt.cli.io.json_reader import array_chunks, json_layout  # noqa: PLC0415  # not for JSON Lines

        is_array, text = json_layout(text, name)
        if is_array:
            yield from array_chunks(text, name, options.max_line_bytes)
            return
    lines = split_lines(text, options.max_line_bytes)
    if form in ("csv", "tsv"):
        yield from csv_chunks(
            lines, name, options if form == "csv" else replace(options, delimiter=options.delimiter or "\t")
        )
    else:
        yield from jsonl_chunks(lines, name, options.skip_lines)


def _checked(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    first = True
    for block in blocks:
        if first:
            check_magic(block, name)
            first = False
        yield block


def _open_remote(url: str, options: InputOptions) -> Source:
    form = options.input_format or format_of(url, streamed=False)
    file = open_url(url)
    if is_table(form):
        return _open_table(file, -1, url, form, None)
    stopped: list[bool] = []
    chunks = _text_chunks(url_blocks(file, url, stopped), url, form, options)
    return Source(url, form, chunks, file.close, interrupt=lambda: stopped.append(True))
