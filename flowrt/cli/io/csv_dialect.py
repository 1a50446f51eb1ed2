"""Dialect of a CSV file: its delimiter and the names of its columns."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from typing import Final

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError, say

__all__ = ["Header", "detect_delimiter", "header_of", "is_text", "unnamed_header"]

_CANDIDATES: Final = {";": "semicolon", "\t": "tab", "|": "pipe"}


@dataclass(frozen=True, slots=True)
class Header:
    """Columns of a CSV file.

    Args:
        names: Names of the columns, all different.
        width: Number of fields of the header row, with the unnamed ones at its end.
    """

    names: list[str]
    width: int


def detect_delimiter(line: str, name: str) -> tuple[str, bool]:
    """Detect the delimiter by the first line: `sep=;`, or a header that only one delimiter other than a comma splits.

    Args:
        line: The first line.
        name: Name of the file for the message about it; "" for no message.

    Returns:
        The delimiter, and whether the line is only its declaration.
    """
    declared = line.strip()
    if declared.lower().startswith("sep=") and len(declared) == len("sep=") + 1:
        return declared[-1], True
    if line.strip().lower() == "sep=":  # strip() has taken a tab away
        return "\t", True
    if _width(line, ",") > 1:
        return ",", False
    widths = {candidate: _width(line, candidate) for candidate in _CANDIDATES}
    best = max(widths, key=lambda candidate: widths[candidate])
    if widths[best] < 2:
        return ",", False
    if name:
        say(f"{name}: fields are delimited by a {_CANDIDATES[best]}, as its header shows; --delimiter names another")
    return best, False


def _width(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=delimiter)))
    except (csv.Error, StopIteration):
        return 0


def header_of(row: list[str], line: int, name: str) -> Header:
    """Check the header row, and make the names of its columns unique.

    Unnamed columns at the end are dropped, as Excel writes them for cells that were cleared.

    Args:
        row: The header row.
        line: Number of its line.
        name: Name of the file for messages; "" for no warnings.

    Raises:
        CommandError: The row names no column, or is not UTF-8.
    """
    if not any(column.strip() for column in row):
        raise CommandError(
            f"{name} has an empty header in line {line}: pass --skip-lines N if it comes later, or --no-header",
            UNREADABLE_INPUT,
        )
    if not all(is_text(column) and "\0" not in column for column in row):
        raise CommandError(
            f"{name} has a header that is not UTF-8 text: name its encoding with --encoding, for example cp1252",
            UNREADABLE_INPUT,
        )
    used = len(row)
    while not row[used - 1].strip():
        used -= 1
    if name and len(row) > 1 and all(_is_number(column) for column in row):
        say(f"{name}: its header, {', '.join(row[:5])}, looks like data: pass --no-header if it has no header")
    return Header(_unique(row[:used], name), len(row))


def unnamed_header(row: list[str]) -> Header:
    """Name the columns of a file without header `column_1` and so on.

    Args:
        row: The first row.
    """
    return Header([f"column_{number}" for number in range(1, len(row) + 1)], len(row))


def _unique(names: list[str], name: str) -> list[str]:
    empty = sum(not column for column in names)
    unique: list[str] = []
    taken = Counter(names)
    seen: Counter[str] = Counter()
    renamed: list[str] = []
    for number, column in enumerate(names, 1):
        seen[column] += 1
        chosen = column
        if not column and empty > 1:  # a single one is the index of pandas, and stays
            chosen = f"column_{number}"
        elif seen[column] > 1:
            chosen = f"{column}_{seen[column]}"
        while chosen != column and taken[chosen]:
            chosen += "_"
        taken[chosen] += 1
        if chosen != column:
            renamed.append(chosen)
        unique.append(chosen)
    if renamed and name:
        say(f"{name}: columns of the same name or of none are called {', '.join(renamed)}")
    return unique


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_text(field: str) -> bool:
    """True if the field has no byte that was invalid in UTF-8."""
    try:
        field.encode()
    except UnicodeEncodeError:
        return False
    return True
