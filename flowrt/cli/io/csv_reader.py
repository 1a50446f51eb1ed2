"""CSV: each row is an item, a dict by the header's names; a bad row is a failed item that names its line.

All values are strings. Blank lines are skipped, also between rows. A field over 131,072 characters, a row with more or
fewer fields than the header, a NUL, bytes that are not UTF-8, text after a closing quote and a quoted field that is
never closed are failed items.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, Final

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError
from flowrt.cli.io.line_reader import LINE_LIMIT_BYTES, Line, LongLine
from flowrt.model import Rejected

__all__ = ["FIELD_LIMIT_CHARS", "csv_chunks"]

FIELD_LIMIT_CHARS: Final = 131_072
_CHUNK_ROWS: Final = 256


class _LongLineError(Exception):
    """A physical line over the limit."""


class _Text:
    """The physical lines as text, for the csv module; bytes that are not UTF-8 come through as lone surrogates.

    Attributes:
        number: The number of the last line that was given.
        quotes: How many quote characters were given since it was last set to 0.
    """

    def __init__(self, parts: Iterator[list[Line]]) -> None:
        self.number = 0
        self.quotes = 0
        self._parts = parts
        self._lines: list[Line] = []

    @property
    def dry(self) -> bool:
        """Whether the next line would have to be waited for."""
        return not self._lines

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self._lines:
            self._lines = next(self._parts)[::-1]
        line = self._lines.pop()
        self.number += 1
        if isinstance(line, LongLine):
            raise _LongLineError(
                f"{line.size_bytes:,} bytes are more than the {LINE_LIMIT_BYTES:,} that a line may have"
            )
        self.quotes += line.count(b'"')
        return line.decode("utf-8", "surrogateescape") + "\n"

    def skip_quoted(self) -> None:
        """Go past the end of a quoted field that is too long, so that its text is not taken for rows."""
        skipped = 0
        while self.quotes % 2 and skipped < LINE_LIMIT_BYTES:
            try:
                skipped += len(next(self))
            except StopIteration:
                return
            except _LongLineError:
                continue


def csv_chunks(lines: Iterator[list[Line]], name: str) -> Iterator[list[Any]]:
    """The items of a CSV file.

    Args:
        lines: Lists of physical lines.
        name: The file's name, for messages.

    Raises:
        CommandError: The header is empty, names a column twice, or cannot be read.
    """
    text = _Text(lines)
    rows = csv.reader(text, strict=True)
    header: list[str] | None = None
    chunk: list[Any] = []
    while True:
        text.quotes = 0
        first = text.number + 1
        try:
            row = next(rows)
        except StopIteration:
            break
        except _LongLineError as exc:
            item: Any = Rejected(f"line {text.number}: {exc}", "LineTooLong")
        except csv.Error as exc:
            item = _rejected(exc, first, text)
        else:
            if header is None:
                header = _checked_header(row, first, name)
                continue
            if not row:
                continue
            item = _item(row, header, _place(first, text.number))
        if header is None:
            raise CommandError(f"{name} has no header that can be read: {item.error}", UNREADABLE_INPUT)
        chunk.append(item)
        if text.dry or len(chunk) == _CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _rejected(exc: csv.Error, first: int, text: _Text) -> Rejected:
    if "field limit" in str(exc):
        text.skip_quoted()
        return Rejected(f"{_place(first, text.number)}: {_FIELD_TOO_LONG}", "FieldTooLong")
    unclosed = "unexpected end" in str(exc)
    error = "a quoted field is never closed" if unclosed else f"not CSV: {exc}"
    return Rejected(f"{_place(first, text.number)}: {error}", "CSVError")


_FIELD_TOO_LONG = f"a field has more than {FIELD_LIMIT_CHARS:,} characters"


def _item(row: list[str], header: list[str], place: str) -> Any:
    error, error_type = "", ""
    if len(row) != len(header):
        error, error_type = f"{_fields(len(row))} where the header has {len(header)}", "RaggedRow"
    elif any(len(field) > FIELD_LIMIT_CHARS for field in row):  # where user code has raised the csv module's own limit
        error, error_type = _FIELD_TOO_LONG, "FieldTooLong"
    elif any("\0" in field for field in row):
        error, error_type = "a field holds a NUL character", "NULCharacter"
    elif not all(field.isascii() or _is_text(field) for field in row):
        error, error_type = "not UTF-8", "UnicodeDecodeError"
    if error:
        return Rejected(f"{place}: {error}", error_type, [field[:200] for field in row[:100]])
    return dict(zip(header, row, strict=True))


def _checked_header(header: list[str], number: int, name: str) -> list[str]:
    if not any(column.strip() for column in header):
        raise CommandError(f"{name} has a header that is empty: line {number} must name the columns", UNREADABLE_INPUT)
    if len(set(header)) < len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise CommandError(f"{name} names the column {twice!r} twice in its header", UNREADABLE_INPUT)
    if not all(_is_text(column) and "\0" not in column for column in header):
        raise CommandError(f"{name} has a header that is not UTF-8 text", UNREADABLE_INPUT)
    return header


def _is_text(field: str) -> bool:
    try:
        field.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def _place(first: int, last: int) -> str:
    return f"line {last}" if last <= first else f"lines {first} to {last}"
