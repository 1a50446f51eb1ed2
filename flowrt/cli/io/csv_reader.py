"""CSV reader: each row is an item, a dict by the header's names; an invalid row is a failed item naming its line.

All values are strings. Blank lines are skipped, also before the header and between rows. Empty fields beyond the
header's names are dropped. A field over the limit, a row with more or fewer fields than the header, a NUL, bytes that
are not UTF-8, text after a closing quote and a quoted field that is never closed are failed items.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError
from flowrt.cli.io.csv_dialect import Header, detect_delimiter, header_of, is_text, unnamed_header
from flowrt.cli.io.line_reader import Line, LongLine
from flowrt.cli.options.input import InputOptions
from flowrt.model import Rejected

__all__ = ["csv_chunks"]

_CHUNK_ROWS: Final = 256


class _LongLineError(Exception):
    """A physical line over the limit."""


class _TextLines:
    """Iterator over the physical lines as text, for the csv module. Invalid UTF-8 becomes lone surrogates.

    Attributes:
        number: Number of the last line.
        quotes: Number of quote characters since it was last set to 0.
    """

    def __init__(self, parts: Iterator[list[Line]], limit_bytes: int) -> None:
        self.number = 0
        self.quotes = 0
        self._parts = parts
        self._lines: list[Line] = []
        self._limit_bytes = limit_bytes

    @property
    def must_wait(self) -> bool:
        """True if the next line has not been read yet."""
        return not self._lines

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self._lines:
            self._lines = next(self._parts)[::-1]
        line = self._lines.pop()
        self.number += 1
        if isinstance(line, LongLine):
            raise _LongLineError(line.describe())
        self.quotes += line.count(b'"')
        return line.decode("utf-8", "surrogateescape") + "\n"

    def skip_quoted(self) -> None:
        """Skip the rest of a quoted field that is too long, so that its text is not read as rows."""
        skipped = 0
        while self.quotes % 2 and skipped < self._limit_bytes:
            try:
                skipped += len(next(self))
            except StopIteration:
                return
            except _LongLineError:
                continue


def csv_chunks(lines: Iterator[list[Line]], name: str, options: InputOptions) -> Iterator[list[Any]]:
    """Yield the items of a CSV file in lists.

    Args:
        lines: Lists of physical lines.
        name: Name of the file for messages.
        options: Delimiter, header and limits.

    Raises:
        CommandError: The header is empty or cannot be read.
    """
    csv.field_size_limit(max(csv.field_size_limit(), options.max_line_bytes))  # the module's own is 131,072
    text = _TextLines(lines, options.max_line_bytes)
    header: Header | None = None
    chunk: list[Any] = []
    for first, row in _parsed(text, name, options):
        if isinstance(row, Rejected):
            item: Any = row
        elif header is None and not options.no_header:
            header = header_of(row, first, name)
            continue
        else:
            header = header or unnamed_header(row)
            item = _item(row, header, _lines(first, text.number), options.max_line_bytes)
        if header is None and not options.no_header:
            raise CommandError(f"{name} has no header that can be read: {item.error}", UNREADABLE_INPUT)
        chunk.append(item)
        if text.must_wait or len(chunk) == _CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _parsed(text: _TextLines, name: str, options: InputOptions) -> Iterator[tuple[int, list[str] | Rejected]]:
    """Yield each row that is not blank, or why it is invalid, with the number of its first line."""
    delimiter, start = _first_line(text, name, options)
    rows = csv.reader(chain(start, text), strict=True, delimiter=delimiter)
    first = text.number + (0 if start else 1)
    while True:
        try:
            row: list[str] | Rejected = next(rows)
        except StopIteration:
            return
        except _LongLineError as exc:
            row = Rejected(f"line {text.number}: {exc}", "LineTooLong")
        except csv.Error as exc:
            row = _rejected(exc, first, text, options.max_line_bytes)
        if row:
            yield first, row
        first = text.number + 1
        text.quotes = 0


def _first_line(text: _TextLines, name: str, options: InputOptions) -> tuple[str, list[str]]:
    """Skip the first lines, and return the delimiter with the first line of a row, if that has been read."""
    skip = options.skip_lines
    while True:
        text.quotes = 0
        try:
            line = next(text)
        except StopIteration:
            return ",", []
        except _LongLineError as exc:
            if skip:
                skip -= 1
                continue
            raise CommandError(
                f"{name} has no header that can be read: line {text.number}: {exc}", UNREADABLE_INPUT
            ) from exc
        if skip:
            skip -= 1
        elif line.strip():
            detected, is_declaration = detect_delimiter(line, "" if options.delimiter else name)
            return options.delimiter or detected, [] if is_declaration else [line]


def _rejected(exc: csv.Error, first: int, text: _TextLines, limit: int) -> Rejected:
    if "field limit" in str(exc):
        text.skip_quoted()
        return Rejected(f"{_lines(first, text.number)}: {_field_too_long(limit)}", "FieldTooLong")
    unclosed = "unexpected end" in str(exc)
    error = "a quoted field is never closed" if unclosed else f"not CSV: {exc}"
    return Rejected(f"{_lines(first, text.number)}: {error}", "CSVError")


def _field_too_long(limit: int) -> str:
    return f"a field has more than {limit:,} characters: raise --max-line-bytes"


def _item(row: list[str], header: Header, place: str, limit: int) -> Any:
    error, error_type = "", ""
    names = header.names
    if len(row) > len(names) and not any(row[len(names) :]):
        row = row[: len(names)]
    if len(row) != len(names):
        error, error_type = f"{_fields(len(row))} where the header has {len(names)}", "RaggedRow"
        if len(names) == 1:
            error += ": pass --delimiter, or --skip-lines N if lines precede the header"
        elif len(names) < len(row) <= header.width:
            error += ": to read columns without a name, skip the header by --skip-lines N and --no-header"
    elif any(len(field) > limit for field in row):  # user code may have raised the csv module's own limit
        error, error_type = _field_too_long(limit), "FieldTooLong"
    elif any("\0" in field for field in row):
        error, error_type = "a field holds a NUL character", "NULCharacter"
    elif not all(field.isascii() or is_text(field) for field in row):
        error, error_type = "not UTF-8: name the encoding with --encoding, for example cp1252", "UnicodeDecodeError"
    if error:
        return Rejected(f"{place}: {error}", error_type, [field[:200] for field in row[:100]])
    return dict(zip(names, row, strict=True))


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _lines(first: int, last: int) -> str:
    return f"line {last}" if last <= first else f"lines {first} to {last}"
