"""JSON Lines reader: each line is an item; an invalid line is a failed item naming its line.

Blank lines are skipped, and CRLF is accepted. As in Python's `json`, the last of duplicate keys wins, and a number too
large for a float is infinite. NaN, Infinity, nesting beyond the interpreter's recursion limit, an integer of more
digits than Python converts (4,300), bytes that are not UTF-8, a line over the limit and everything else that is not
JSON are failed items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from flowrt.cli.exit_codes import UNREADABLE_INPUT, CommandError
from flowrt.cli.io.line_reader import Line, LongLine
from flowrt.model import Rejected

__all__ = ["decode", "jsonl_chunks"]

_SHOWN_CHARS: Final = 200


def jsonl_chunks(lines: Iterator[list[Line]], name: str = "the input", skip_lines: int = 0) -> Iterator[list[Any]]:
    """Yield the items of JSON Lines in lists.

    Args:
        lines: Lists of lines.
        name: Name of the file for messages.
        skip_lines: Number of lines to skip at the start.

    Raises:
        CommandError: The file is one JSON document over several lines.
    """
    number = 0
    begun = False
    for part in lines:
        chunk = []
        for line in part:
            number += 1
            if number <= skip_lines or not (isinstance(line, LongLine) or line.strip()):
                continue
            if not begun:
                begun = True
                _check_first(line, name)
            chunk.append(_parse(line, number))
        if chunk:
            yield chunk


def _check_first(line: Line, name: str) -> None:
    """Refuse a document that was written over several lines: each of them would be a failed item."""
    if isinstance(line, LongLine):
        return
    start = line.strip()
    if start == b"[":
        raise CommandError(
            f"{name} is one JSON array over several lines, not JSON Lines: pass --input-format json", UNREADABLE_INPUT
        )
    if start == b"{":
        raise CommandError(
            f"{name} is one JSON object over several lines, not JSON Lines: write one object per line, for example "
            "with jq -c",
            UNREADABLE_INPUT,
        )


def _parse(line: Line, number: int) -> Any:
    if isinstance(line, LongLine):
        return Rejected(f"line {number}: {line.describe()}", "LineTooLong", _shown(line.head))
    try:
        return decode(line.decode("utf-8"))
    except UnicodeDecodeError as exc:
        error = (
            f"not UTF-8: byte 0x{line[exc.start]:02x} at column {exc.start + 1} ({exc.reason}); "
            "name the encoding with --encoding"
        )
        error_type = "UnicodeDecodeError"
    except json.JSONDecodeError as exc:
        error = f"not JSON: {exc.msg} at column {exc.colno} (each line must hold one JSON value)"
        error_type = "JSONDecodeError"
    except RecursionError:
        error, error_type = "nested too deeply to be read", "RecursionError"
    except ValueError as exc:  # NaN, or an integer of too many digits
        error, error_type = f"not a number that can be read: {exc}", "ValueError"
    return Rejected(f"line {number}: {error}", error_type, _shown(line))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _shown(line: bytes) -> str:
    """Return the beginning of an invalid line for display."""
    return line[:_SHOWN_CHARS].decode("utf-8", "replace")
